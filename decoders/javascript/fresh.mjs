// Checks fresh tokens: reads lines of JSON from the input, opens each token, compares what is in it.
//
//     python -m tests.wire.fresh_tokens 100000 seed | node decoders/javascript/fresh.mjs
//
// The first line, and any later line with `keys`, is a setting for the lines behind it:
//
//   {"keys": [text, ...], "lookup": text or null, "skew": seconds, "announce": seconds, "realm": text, "cookie_name": text}
//   {"ring": text, "keks": [text, ...] or null, "realm": text, "cookie_name": text}
//
// Every other line has `kind` and `now`, what to open, and what is expected: `error`, the outcome, or
//
//   core       text                                         record, as in the vectors, and values: {part: description}
//   overflow   record (with its id and overflow), texts     values: {part: description}
//   stored     session_id, part, version, token (hex)       value: a description; the row's key is `key`
//   revoked    session_id, version, token (hex), key        says: as in the vectors
//   watermark  subject, version, token (hex), key           time: seconds
//   protected  name, bound: [text, ...], text, max_age      value: a description
//   value      cbor (hex)                                   value: a description
//   session    text, and the lifetimes as in the vectors    record

import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import * as s from './sealedstate.mjs';
import { describeRecord, describeRevoked, sameValue } from './describe.mjs';

const hex = (text) => Buffer.from(text, 'hex');
let known;
let setting;

function settle(line) {
  setting = line;
  if (line.ring) {
    known = s.readRing(line.ring, line.keks ? s.parseKeyList(line.keks) : null);
  } else {
    known = s.parseKeyList(line.keys, { ...line, lookup: line.lookup ? s.parseLookup(line.lookup) : null });
  }
}

function sameParts(parts, values) {
  return parts !== null && isDeepStrictEqual([...parts.keys()].sort(), Object.keys(values).sort())
    && Object.entries(values).every(([name, value]) => sameValue(s.decodeValue(parts.get(name)), value));
}

function row(line, context) {
  const place = { realm: setting.realm, context, key: line.key, version: line.version };
  return s.openStored(known, hex(line.token), place, line.now);
}

const sameRecord = (record, line) => isDeepStrictEqual(describeRecord(record), line.record)
  && (line.values === undefined || sameParts(record.parts, line.values));

// Each kind opens a line and compares: true if all is as expected.
const kinds = {
  core(line) {
    const context = { purpose: 'core', realm: setting.realm, name: [setting.cookie_name] };
    const { sealedAt, payload } = s.openToken(known, s.tokenBytes(line.text), context, line.now);
    return sameRecord(s.decodeRecord(payload, sealedAt), line);
  },
  session(line) {
    const settings = {
      cookieName: setting.cookie_name, realm: setting.realm, idleLifetime: line.idle_lifetime,
      absoluteLifetime: line.absolute_lifetime, longestLifetime: line.longest_lifetime,
    };
    return sameRecord(s.openCore(known, line.text, settings, line.now), line);
  },
  overflow(line) {
    const { set_id: setId, count, digest, names } = line.record.overflow;
    const record = { id: hex(line.record.id), overflow: { setId: hex(setId), count, digest: hex(digest), names } };
    const place = { cookieName: setting.cookie_name, realm: setting.realm };
    return sameParts(s.openOverflow(known, record, line.texts, place, line.now), line.values);
  },
  stored(line) {
    return s.partKey(hex(line.session_id), line.part) === line.key
      && sameValue(s.decodeValue(row(line, 'sealedstate.part')), line.value);
  },
  revoked(line) {
    return s.revokedKey(setting.realm, hex(line.session_id)) === line.key
      && isDeepStrictEqual(describeRevoked(s.decodeRevoked(row(line, 'sealedstate.revoked'))), line.says);
  },
  watermark(line) {
    return s.watermarkKey(known, setting.realm, line.subject) === line.key
      && s.decodeWatermark(row(line, 'sealedstate.watermark')) === line.time;
  },
  protected(line) {
    const place = { name: line.name, realm: setting.realm, bound: line.bound, maxAge: line.max_age ?? Infinity };
    return sameValue(s.openProtected(known, line.text, place, line.now), line.value);
  },
  value: (line) => sameValue(s.decodeValue(hex(line.cbor)), line.value),
};

// Null if a line is as expected, else what is wrong.
function check(line) {
  try {
    if (!kinds[line.kind](line)) return 'another content';
    return line.error === undefined ? null : `opened in place of ${line.error}`;
  } catch (error) {
    if (!(error instanceof s.Refused)) return error.stack;
    return error.outcome === line.error ? null : `refused: ${error.message}`;
  }
}

const counts = {};
let failures = 0;
for await (const text of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const line = JSON.parse(text);
  if (line.kind === undefined) {
    settle(line);
    continue;
  }
  const group = line.error ? `${line.kind}, refused` : line.kind;
  counts[group] = (counts[group] ?? 0) + 1;
  const wrong = check(line);
  if (wrong !== null && ++failures <= 20) console.log(`FAILED ${wrong}: ${text.slice(0, 2000)}`);
}
console.log(Object.entries(counts).map(([group, count]) => `${group}: ${count}`).join('\n'));
console.log(failures ? `${failures} FAILED` : 'all as expected');
process.exitCode = failures || !Object.keys(counts).length ? 1 : 0;
