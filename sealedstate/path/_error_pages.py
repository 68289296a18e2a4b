"""Configurations with which a proxy refuses too many cookies by a page that frees the browser.

The proxy refuses the request before the application does, and answers two buttons of its page. None
of it happens without a button: a sibling domain that plants cookies could sign visitors out. Only
pages of the same origin can press it, by Sec-Fetch-Site.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from string import Template

FREE, FREE_ALL = "/sealedstate/free", "/sealedstate/free-all"

# Scripts see no HttpOnly cookie, so this deletes what other programs have set, and no session. The
# texts have no single quotes, dollars, percent signs and backslashes: configurations quote them.
_SCRIPT = (
    'document.getElementById("free").addEventListener("submit",function(){'
    'var host=location.hostname.split("."),end="; Max-Age=0"+'
    '(location.protocol==="https:"?"; Secure":"");'
    'document.cookie.split("; ").forEach(function(pair){'
    'var name=pair.split("=")[0];["/",location.pathname].forEach(function(path){'
    'var line=name+"=; Path="+path+end;document.cookie=line;'
    "for(var n=0;n+1<host.length;n++)"
    'document.cookie=line+"; Domain="+host.slice(n).join(".")})})})'
)
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Too many cookies</title>'
    '<link rel="icon" href="data:,">'
    "<h1>Too many cookies</h1><p>Your browser sends more cookies than this site takes, so no page"
    f' can be shown.</p><form id="free" method="post" action="{FREE}">'
    "<button>Make room, and stay signed in</button></form>"
    f'<p>If this page comes again:</p><form method="post" action="{FREE_ALL}">'
    "<button>Delete all cookies of this site, and sign out</button></form>"
    f"<script>{_SCRIPT}</script></html>"
)
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (
    f'default-src "none"; script-src "sha256-{_DIGEST}"; img-src data:; form-action "self";'
    ' base-uri "none"; frame-ancestors "none"'
).replace('"', "'")

_NGINX = """\
# In server { }; the pages of 431 need no other.
large_client_header_buffers 4 32k;
set $$sealedstate_large 0;
if ($$http_cookie ~ "^.{$limit}") { set $$sealedstate_large 1; }
set $$sealedstate_asked "$$sealedstate_large $$request_method $$http_sec_fetch_site $$uri";
if ($$sealedstate_asked = "1 POST same-origin $free") { rewrite ^ /sealedstate/freed last; }
if ($$sealedstate_asked = "1 POST same-origin $free_all") { rewrite ^ /sealedstate/empty last; }
if ($$sealedstate_large) { rewrite ^ /sealedstate/large last; }
location = /sealedstate/large {
    internal;
    default_type "text/html; charset=utf-8";
    add_header Cache-Control no-store always;
    add_header Content-Security-Policy "$policy" always;
    return 431 '$page';
}
location = /sealedstate/freed {
    internal;
    absolute_redirect off;
$deletions
    add_header Cache-Control no-store always;
    return 303 /;
}
location = /sealedstate/empty {
    internal;
    absolute_redirect off;
    add_header Clear-Site-Data '"cookies"' always;
    add_header Cache-Control no-store always;
    return 303 /;
}
"""
_APACHE = """\
# In <VirtualHost>; needs mod_rewrite and mod_headers.
LimitRequestFieldSize 32768
RewriteEngine On
RewriteCond %{HTTP_COOKIE} "^.{$limit}"
RewriteCond %{REQUEST_METHOD} =POST
RewriteCond %{HTTP:Sec-Fetch-Site} =same-origin
RewriteRule "^$free$$" "/" [R=303,L,E=SEALEDSTATE_FREE:1]
RewriteCond %{HTTP_COOKIE} "^.{$limit}"
RewriteCond %{REQUEST_METHOD} =POST
RewriteCond %{HTTP:Sec-Fetch-Site} =same-origin
RewriteRule "^$free_all$$" "/" [R=303,L,E=SEALEDSTATE_EMPTY:1]
RewriteCond %{HTTP_COOKIE} "^.{$limit}"
RewriteRule "^" "-" [R=431,L,E=SEALEDSTATE_LARGE:1]
$deletions
Header always set Clear-Site-Data '"cookies"' env=SEALEDSTATE_EMPTY
Header always set Cache-Control no-store env=SEALEDSTATE_LARGE
Header always set Content-Security-Policy "$policy" env=SEALEDSTATE_LARGE
ErrorDocument 431 '$page'
"""
_HAPROXY = """\
# In frontend; a Cookie field of more than 14 kB needs `tune.bufsize 65536` in global.
acl sealedstate_large req.fhdr(cookie),length ge $limit
acl sealedstate_own req.hdr(sec-fetch-site) same-origin
http-request return status 303 hdr Location / hdr Cache-Control no-store$deletions \
if sealedstate_large METH_POST sealedstate_own { path $free }
http-request return status 303 hdr Location / hdr Cache-Control no-store \
hdr Clear-Site-Data '"cookies"' if sealedstate_large METH_POST sealedstate_own { path $free_all }
http-request return status 431 content-type 'text/html; charset=utf-8' \
hdr Cache-Control no-store hdr Content-Security-Policy "$policy" string '$page' \
if sealedstate_large
"""
_VARNISH = """\
# In the VCL, before its other vcl_recv; start varnishd with -p http_req_hdr_len=32k
# -p http_req_size=64k. VCL sets one Set-Cookie field in a response, so there is one for each.
sub vcl_recv {
    if (req.http.Cookie ~ "^.{$limit}") {
        if (req.method == "POST" && req.http.Sec-Fetch-Site == "same-origin") {
            if (req.url ~ "^$free(\\?[0-9])?$$") { return (synth(753)); }
            if (req.url == "$free_all") { return (synth(754)); }
        }
        return (synth(431));
    }
}
sub vcl_synth {
    if (resp.status == 753 || resp.status == 754) {
        set resp.http.Cache-Control = "no-store";
        set resp.http.Location = "/";
        if (resp.status == 754) {
            set resp.http.Clear-Site-Data = {""cookies""};
        }
        set resp.status = 303;
$deletions
        return (deliver);
    }
    if (resp.status == 431) {
        set resp.http.Content-Type = "text/html; charset=utf-8";
        set resp.http.Cache-Control = "no-store";
        set resp.http.Content-Security-Policy = "$policy";
        synthetic({"$page"});
        return (deliver);
    }
}
"""
KINDS = ("nginx", "apache", "haproxy", "varnish")


def error_page(kind: str, deletions: Sequence[str], limit: int) -> str:
    """What to put into the configuration of a proxy, one of KINDS.

    `deletions`: the Set-Cookie fields that delete overflow cookies. `limit`: the smallest Cookie
    field that the page answers, in bytes.
    """
    texts = {
        "nginx": [f'    add_header Set-Cookie "{line}" always;' for line in deletions],
        "apache": [
            f'Header always add Set-Cookie "{line}" env=SEALEDSTATE_FREE' for line in deletions
        ],
        "haproxy": [f' hdr Set-Cookie "{line}"' for line in deletions],
        "varnish": [_varnish_step(number, deletions) for number in range(len(deletions))],
    }
    templates = {"nginx": _NGINX, "apache": _APACHE, "haproxy": _HAPROXY, "varnish": _VARNISH}
    joint = "" if kind == "haproxy" else "\n"
    text = Template(templates[kind]).substitute(
        limit=limit,
        free=FREE,
        free_all=FREE_ALL,
        policy=_POLICY,
        page=_PAGE,
        deletions=joint.join(texts[kind]),
    )
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def _varnish_step(number: int, deletions: Sequence[str]) -> str:
    """Delete one cookie; a redirect that keeps the method leads to the next."""
    address = FREE if number == 0 else f"{FREE}?{number}"
    following = ""
    if number + 1 < len(deletions):
        following = (
            f'            set resp.http.Location = "{FREE}?{number + 1}";\n'
            "            set resp.status = 307;\n"
        )
    return (
        f'        if (req.url == "{address}") {{\n'
        f'            set resp.http.Set-Cookie = "{deletions[number]}";\n'
        f"{following}        }}"
    )
