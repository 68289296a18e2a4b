"""The page for the visitor: its texts, its style and its one script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import Markup

STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:3rem auto;padding:0 1rem}"
    "button,select{font:inherit;padding:.4rem .8rem}"
    "code{font-size:1.6rem;letter-spacing:.1em}"
    "textarea{width:100%;height:8rem}"
)
# One constant script, so that a policy can allow it by its address.
SCRIPT = r"""
"use strict";
(() => {
  const start = document.getElementById("start"), form = document.getElementById("measured");
  if (!start || !form || !window.fetch || !window.URL) return;
  const probe = new URL("trial/probe" + location.search, location.href);
  const path = probe.pathname.slice(0, -"/probe".length);
  const secure = location.protocol === "https:" ? "; Secure" : "";
  const flags = "; Path=" + path + "; SameSite=Lax" + secure;
  let written = 0;

  const set = (name, value, age) => {
    document.cookie = name + "=" + value + flags + "; Max-Age=" + age;
  };
  const clear = () => { while (written > 0) set("t" + --written, "", 0); };
  const fill = (size) => {
    clear();
    while (size > 16) {
      const name = "t" + written, room = size <= 3800 ? size : Math.min(3800, size - 18);
      set(name, "0".repeat(room - name.length - 1), 60);
      written += 1;
      size -= room + 2;
    }
  };
  const ask = async (query) => {
    const url = new URL(probe);
    for (const name in query) url.searchParams.set(name, query[name]);
    url.searchParams.set("nonce", Math.random().toString(36).slice(2));
    try {
      const seen = await fetch(url, { cache: "no-store", redirect: "error" });
      const report = seen.status === 200 ? await seen.json().catch(() => null) : null;
      return { status: seen.status, report: report };
    } catch (error) {
      return { status: 0, report: null };
    }
  };
  const search = async (least, most, step, marks, passes) => {
    let passed = 0, refused = most + 1, size = most, answer = null;
    for (;;) {
      const seen = await passes(size);
      if (seen === null) passed = size; else { refused = size; answer = seen; }
      if (passed >= most) return { passed: passed, refused: null, answer: "" };
      if (refused - passed <= Math.max(step, passed / 32) || refused <= least)
        return { passed: passed, refused: refused, answer: answer ? String(answer) : "no answer" };
      const between = marks.filter((mark) => passed < mark && mark < refused);
      size = between.length ? between[between.length >> 1]
        : step === 1 ? (passed + refused) >> 1
        : Math.floor(Math.sqrt(Math.max(passed, least / 2) * refused));
    }
  };

  const measure = async () => {
    const found = {}, hello = await ask({});
    if (hello.report === null) return { failed: "no answer: " + hello.status };
    const others = hello.report.cookie_bytes, count = hello.report.cookies;
    found.clock = Math.round(hello.report.now - Date.now() / 1000);
    fill(100);
    found.kept = ((await ask({})).report || {}).cookie_bytes > others;
    clear();
    found.deleted = ((await ask({})).report || {}).cookie_bytes === others;
    if (found.kept) {
      found.cookie = await search(256, 16384, 8, [2800, 7600, 13500], async (size) => {
        fill(size - (others ? others + 2 : 0));
        const seen = await ask({});
        const came = seen.report === null ? 0 : seen.report.cookie_bytes;
        return came >= size - 20 ? null : seen.status;
      });
      clear();
    }
    found.set_cookie = await search(256, 4096, 8, [2110, 3010, 3910], async (size) => {
      const seen = await ask({ set_cookie: size });
      return seen.report !== null ? null : seen.status;
    });
    found.response = await search(256, 16384, 8, [3000, 3672, 7100, 12100], async (size) => {
      const seen = await ask({ response: size });
      return seen.report !== null ? null : seen.status;
    });
    await ask({ clear: 1 });
    found.left = ((await ask({})).report || { cookies: count }).cookies - count;
    try {
      localStorage.setItem("sealedstate-path", "1");
      found.storage = localStorage.getItem("sealedstate-path") === "1";
      localStorage.removeItem("sealedstate-path");
    } catch (error) {
      found.storage = false;
    }
    return found;
  };

  start.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = start.querySelector("button");
    button.disabled = true;
    button.textContent = button.dataset.busy;
    measure().catch((error) => ({ failed: String(error).slice(0, 200) })).then((found) => {
      clear();
      form.elements.measured.value = JSON.stringify(found);
      form.submit();
    });
  });
})();
"""
# What an error page may have shown.
ERRORS = ("400", "413", "431", "494", "500", "502", "503", "no page at all", "something else")

# The page that posts as another site does sends its form by this.
_SUBMIT = "document.forms[0].submit()"

_PAGE = Markup(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    "<style>{style}</style></head>"
    "<body><h1>{title}</h1>{body}</body></html>"
)
_START = Markup(
    "<p>This page finds out which cookies get from your browser to this site and back. It takes a"
    " few seconds, and changes no other page.</p>"
    '<form id="start" action="trial/step" method="get">'
    '<input type="hidden" name="link" value="{link}"><input type="hidden" name="step" value="0">'
    '<button data-busy="One moment ...">Start</button></form>'
    '<form id="measured" action="measured?{query}" method="post">'
    '<input type="hidden" name="measured"></form>'
    "<p>If an error page comes instead of a result, go back to this page, and say what it showed:"
    '</p><form action="failed?{query}" method="post"><select name="seen">{options}</select>'
    " <button>It failed</button></form>"
    '<script src="script.js?{query}" defer></script>'
)
_RESULT = Markup(
    "<p>{sentence}</p><p>The code for the help desk: <code>{code}</code></p>"
    "<details><summary>If they ask for the whole report, send them this text</summary>"
    "<textarea readonly>{text}</textarea></details>"
)


_POST = Markup(
    "<p>The last step is a form as sign-in pages of other sites send it.</p>"
    '<form action="{action}" method="post"><input type="hidden" name="found" value="{found}">'
    "<button>Show the result</button></form><script>{script}</script>"
)


def policy(script: str = "'self'", form: str = "'self'") -> str:
    """The Content-Security-Policy of the pages. `form`: where forms may lead."""
    return (
        f"default-src 'none'; script-src {script}; connect-src 'self'; style-src {_source(STYLE)};"
        f" img-src data:; form-action {form}; base-uri 'none'; frame-ancestors 'none'"
    )


def posting_policy(origin: str = "") -> str:
    """The policy of the page that posts. `origin`: of the form's address, if that is another host.

    Without it, the page is in a sandbox: browsers then take its form for one of another site.
    """
    rest = policy(_source(_SUBMIT), origin or "'self'")
    return rest if origin else f"sandbox allow-forms allow-scripts; {rest}"


def start_page(link: str, query: str) -> str:
    options = Markup("").join(Markup("<option>{}</option>").format(each) for each in ERRORS)
    body = _START.format(link=link, query=query, options=options)
    return _page("Do your cookies arrive?", body)


def posting_page(action: str, found: str) -> str:
    script = Markup(_SUBMIT)  # noqa: S704 (a constant)
    return _page("One more step", _POST.format(action=action, found=found, script=script))


def result_page(sentence: str, code: str, text: str) -> str:
    return _page("The result", _RESULT.format(sentence=sentence, code=code, text=text))


def message_page(title: str, sentences: Sequence[str]) -> str:
    body = Markup("").join(Markup("<p>{}</p>").format(each) for each in sentences)
    return _page(title, body)


def _page(title: str, body: Markup) -> str:
    style = Markup(STYLE)  # noqa: S704 (a constant)
    return _PAGE.format(title=title, style=style, body=body)


def _source(text: str) -> str:
    """How a policy allows this script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
