// iron-session and Auth.js, driven by one line of JSON at a time on standard input, each answered by
// one line on standard output. Knows both products' public functions. Does not know the workloads.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const MODULES = join(HERE, "node_modules");
const secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

async function startIron() {
  const { getIronSession } = await import("iron-session");
  const options = { password: secret, cookieName: "session" };
  const open = (cookie, lines) =>
    getIronSession(
      { headers: { get: () => cookie } },
      { headers: { append: (_, line) => lines.push(line) } },
      options,
    );
  return {
    async fill(values) {
      const lines = [];
      const session = await open("", lines);
      Object.assign(session, values);
      try {
        await session.save();
      } catch (error) {
        if (!/too big/.test(error.message)) throw error;
        return []; // it refuses cookies of more than 4096 bytes
      }
      return lines;
    },
    async revisit(cookie, reads, number) {
      const lines = [];
      const session = await open(cookie, lines);
      if (session[reads] === undefined) throw new Error("the session is not there");
      session.seen = number;
      await session.save();
      return lines;
    },
  };
}

async function startAuth() {
  const { encode, decode } = await import("@auth/core/jwt");
  const file = join(MODULES, "@auth/core/lib/utils/cookie.js");
  const { SessionStore, defaultCookies } = await import(pathToFileURL(file).href);
  const { serialize, parse } = await import(pathToFileURL(join(MODULES, "@auth/core/lib/vendored/cookie.js")).href);
  const cookie = defaultCookies(true).sessionToken;
  const logger = { debug() {} };
  async function save(store, token) {
    const value = await encode({ token, secret, salt: cookie.name });
    return store.chunk(value, {}).map((one) => serialize(one.name, one.value, one.options));
  }
  return {
    fill: (values) => save(new SessionStore(cookie, {}, logger), values),
    async revisit(header, reads, number) {
      const store = new SessionStore(cookie, parse(header), logger);
      const token = await decode({ token: store.value, secret, salt: cookie.name });
      if (token[reads] === undefined) throw new Error("the session is not there");
      token.seen = number;
      return save(store, token);
    },
  };
}

const starters = { "iron-session": startIron, "@auth/core": startAuth };
const started = {};

async function product(name) {
  started[name] ??= await starters[name]();
  return started[name];
}

const answers = {
  async version({ name }) {
    return JSON.parse(readFileSync(join(MODULES, name, "package.json"), "utf8")).version;
  },
  async fill({ name, session }) {
    return (await product(name)).fill(session);
  },
  async revisit({ name, cookie, reads, number }) {
    return (await product(name)).revisit(cookie, reads, number);
  },
  // Nanoseconds of a processor for so many visits, threads of this process included.
  async turn({ name, cookie, reads, calls, before }) {
    const one = await product(name);
    const begun = process.cpuUsage();
    for (let call = 0; call < calls; call++) await one.revisit(cookie, reads, before + 1 + (call % 600));
    const taken = process.cpuUsage(begun);
    return (taken.user + taken.system) * 1000;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { ask, ...given } = JSON.parse(line);
  let told;
  try {
    told = { answer: await answers[ask](given) };
  } catch (error) {
    told = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(told) + "\n");
}
