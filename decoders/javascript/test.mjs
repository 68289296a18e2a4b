// Opens every good vector and compares what is in it; refuses every bad one with the outcome that it names.
//
//     node decoders/javascript/test.mjs tests/vectors

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import * as s from './sealedstate.mjs';
import { describe, describeRecord, describeRevoked, sameValue } from './describe.mjs';

const folder = process.argv[2] ?? 'tests/vectors';
const read = (name) => readFileSync(join(folder, name), 'utf8');
const load = (name) => JSON.parse(read(name));
const hex = (text) => Buffer.from(text, 'hex');
const counts = {};
let failures = 0;

function check(group, name, test) {
  counts[group] = (counts[group] ?? 0) + 1;
  let wrong;
  try {
    wrong = test();
  } catch (error) {
    wrong = error.stack;
  }
  if (wrong === true) return;
  failures++;
  console.log(`FAILED ${group}: ${name}: ${wrong}`);
}

function opens(group, name, found, expected, same = isDeepStrictEqual) {
  check(group, name, () => {
    const result = found();
    return same(result, expected) || `${show(result)} in place of ${show(expected)}`;
  });
}

const show = (value) => JSON.stringify(value, (_, x) => (typeof x === 'bigint' ? `${x}` : x))?.slice(0, 500);

// The outcome of what `run` does, or null if it opens.
function outcome(run) {
  try {
    run();
    return null;
  } catch (error) {
    if (error instanceof s.Refused) return error.outcome;
    throw error;
  }
}

function refuses(group, name, run, expected) {
  opens(group, name, () => outcome(run), expected);
}

// --- format1.json, format1-rows.json ---------------------------------------------------------------------------------

const good = load('format1.json');
const rows = load('format1-rows.json');
const { realm, cookie_name: cookieName } = good;
const keysOf = (keys) => keys.map((key) => ({
  kid: key.kid, secret: hex(key.secret), activatesAt: key.activates_at, expiresAt: key.expires_at,
  retiresAt: key.retires_at ?? null, revoked: key.revoked, disabled: key.disabled,
}));
const known = s.keyList(keysOf(good.keys), { ...good, lookup: hex(rows.lookup) });
const core = { purpose: 'core', realm, name: [cookieName] };

for (const { name, cbor, value } of good.values) opens('values', name, () => s.decodeValue(hex(cbor)), value, sameValue);

for (const { name, text, now, record } of [...good.cores, ...good.padded]) {
  opens('cores', name, () => {
    const { sealedAt, payload } = s.openToken(known, s.tokenBytes(text), core, now);
    return describeRecord(s.decodeRecord(payload, sealedAt));
  }, record);
}

// Every value of a part, too, is decoded: by its name, the vectors have its description.
const described = new Map(good.values.map(({ name, value }) => [name, value]));
const full = good.cores.find(({ name }) => name === 'every type of value');
for (const [name, cbor] of Object.entries(full.record.parts)) {
  if (described.has(name)) opens('parts', name, () => s.decodeValue(hex(cbor)), described.get(name), sameValue);
}

check('derivation', 'of the first core', () => {
  const { derivation: d } = good;
  const secret = hex(d.secret);
  const context = s.lp('sealedstate/1', 'core', realm, cookieName);
  const sealKey = s.subkey(secret, 'seal', 'core', realm);
  const nonceKey = s.subkey(secret, 'nonce', 'core', realm);
  const parts = [hex(good.cores[0].random.at(-1)), s.lp(context), hex(d.prefix), hex(d.payload)];
  const nonce = s.blake2b(192, Buffer.concat(parts), nonceKey);
  const token = hex(d.token);
  const payload = s.xChaChaOpen(sealKey, nonce, hex(d.AD), token.subarray(34, -16), token.subarray(-16));
  const found = [sealKey, nonceKey, context, payload, nonce, Buffer.concat([context, hex(d.prefix), nonce])];
  return isDeepStrictEqual(found.map((x) => x.toString('hex')), [d.K_seal, d.K_nonce, d.context, d.payload, d.nonce, d.AD]);
});

for (const vector of good.overflows) {
  const { set_id: setId, count, digest, names } = vector.overflow;
  const record = { id: hex(vector.session_id), overflow: { setId: hex(setId), count, digest: hex(digest), names } };
  const open = (texts, changed = {}) => {
    const parts = s.openOverflow(known, { ...record, ...changed }, texts, { cookieName, realm }, vector.now);
    return parts && Object.fromEntries([...parts].map(([name, value]) => [name, value.toString('hex')]));
  };
  opens('overflows', vector.name, () => open(vector.texts), vector.parts);
  opens('overflows', `${vector.name}: order`, () => Object.keys(open(vector.texts)), names);
  opens('overflows', `${vector.name}: cut`, () => open(vector.texts.with(-1, vector.texts.at(-1).slice(0, -4))), null);
  opens('overflows', `${vector.name}: names`, () => {
    return open(vector.texts, { overflow: { ...record.overflow, names: names.toReversed() } });
  }, null);
}

function stored(vector) {
  const place = { realm, context: vector.context, key: vector.key, version: vector.version };
  return s.openStored(known, hex(vector.token), place, vector.now);
}

for (const vector of good.stored) {
  opens('stored', vector.name, () => stored(vector).toString('hex'), vector.cbor);
  opens('stored', `${vector.name}: key`, () => s.partKey(hex(vector.session_id), vector.name), vector.key);
  opens('stored', `${vector.name}: value`, () => s.decodeValue(stored(vector)).type, 'dict');
}
for (const vector of rows.revoked) {
  opens('rows', vector.name, () => describeRevoked(s.decodeRevoked(stored(vector))), vector.says);
  opens('rows', `${vector.name}: key`, () => s.revokedKey(realm, hex(vector.session_id)), vector.key);
}
for (const vector of rows.watermarks) {
  opens('rows', vector.name, () => s.decodeWatermark(stored(vector)), vector.says);
  opens('rows', `${vector.name}: key`, () => s.watermarkKey(known, realm, vector.subject), vector.key);
}

for (const vector of good.sessions) {
  const settings = {
    cookieName, realm, idleLifetime: vector.idle_lifetime, absoluteLifetime: vector.absolute_lifetime,
    longestLifetime: vector.longest_lifetime,
  };
  const now = { ...known, revokedBefore: vector.revoked_before };
  refuses('sessions', vector.name, () => s.openCore(now, vector.text, settings, vector.now), vector.outcome);
}

// --- format1-refused.json --------------------------------------------------------------------------------------------

const refused = load('format1-refused.json');
for (const vector of refused.tokens) {
  const name = vector.place.map((field) => field.text ?? hex(field.hex));
  const context = { purpose: vector.purpose, realm: vector.realm, name };
  refuses('refused tokens', vector.name, () => {
    const { sealedAt, payload } = s.openToken(known, s.tokenBytes(vector.text), context, vector.now);
    if (vector.purpose === 'core') s.decodeRecord(payload, sealedAt);
    else if (vector.purpose === 'overflow') s.decodeParts(payload);
    else s.decodeValue(payload);
  }, vector.error);
}
for (const { name, cbor } of refused.values) refuses('refused values', name, () => s.decodeValue(hex(cbor)), 'MalformedRecord');

// --- format1-edges.json ----------------------------------------------------------------------------------------------

const edges = load('format1-edges.json');
for (const { name, keys, skew, announce, tokens } of edges.windows) {
  const ring = s.keyList(keysOf(keys), { skew, announce });
  for (const { text, now, outcome: expected } of tokens) {
    refuses('sealing times', `${name}, ${now}`, () => s.openToken(ring, s.tokenBytes(text), core, now), expected);
  }
}
for (const { name, cbor, value } of edges.values) opens('values', name, () => s.decodeValue(hex(cbor)), value, sameValue);
for (const { name, cbor } of edges.bad_values) refuses('refused values', name, () => s.decodeValue(hex(cbor)), 'MalformedRecord');
for (const { name, type, head, byte, count, error } of edges.long_values) {
  const data = Buffer.concat([hex(head), Buffer.alloc(count, hex(byte))]);
  refuses('long values', name, () => {
    const value = s.decodeValue(data);
    const { length } = { text: value, bytes: value, list: value[0], markup: value.text }[type];
    if (length !== count) throw new Error(`${length} in place of ${count}`);
  }, error);
}
for (const { name, text, now, record } of edges.cores) {
  opens('cores', name, () => {
    const { sealedAt, payload } = s.openToken(known, s.tokenBytes(text), core, now);
    return describeRecord(s.decodeRecord(payload, sealedAt));
  }, record);
}
for (const { name, now, revoked_before: revokedBefore, session_id: id, overflow, texts, parts } of edges.overflows) {
  const { set_id: setId, count, digest, names } = overflow;
  const record = { id: hex(id), overflow: { setId: hex(setId), count, digest: hex(digest), names } };
  opens('overflows', name, () => {
    const found = s.openOverflow({ ...known, revokedBefore }, record, texts, { cookieName, realm }, now);
    return found && Object.fromEntries([...found].map(([part, value]) => [part, value.toString('hex')]));
  }, parts);
}
for (const vector of edges.protected) {
  const { place, max_age: maxAge, now, revoked_before: revokedBefore, text, outcome: expected, value } = vector;
  const bound = place.bound.map((field) => field.text ?? hex(field.hex));
  const open = () => s.openProtected({ ...known, revokedBefore }, text, { ...place, bound, maxAge }, now);
  if (expected === null) opens('protected texts', vector.name, open, value, sameValue);
  else refuses('refused protected texts', vector.name, open, expected === 'too old' ? 'ExpiredText' : expected);
}

// --- texts.json ------------------------------------------------------------------------------------------------------

const texts = load('texts.json');
for (const { text, kid, secret } of texts.keys) {
  for (const spaced of [text, ` \t${text}\n`]) {
    opens('keys', text, () => [s.parseKey(spaced).kid, s.parseKey(spaced).secret.toString('hex')], [kid, secret]);
  }
}
for (const { text, secret } of texts.lookups) opens('keys', text, () => s.parseLookup(text).toString('hex'), secret);
for (const { lines, activates_at: times } of texts.lists) {
  opens('keys', lines[0], () => s.parseKeyList(lines).keys.map((key) => key.activatesAt), times);
  const { text: lookup, secret } = texts.lookups[0];
  opens('keys', lookup, () => s.parseKeyList([...lines, lookup]).lookup.toString('hex'), secret);
  refuses('refused texts', `${lookup}: twice`, () => s.parseKeyList([...lines, lookup, lookup]), 'MalformedText');
  opens('keys', `${lines[0]}: blanks`, () => s.parseKeyList([lines[0].replace('@', ' @\t'), lines[1]]).keys[0].activatesAt, times[0]);
  refuses('refused texts', `${lines[0]}: order`, () => s.parseKeyList(lines.toReversed()), 'MalformedText');
}
for (const [group, decode, encode] of [
  ['tokens', s.tokenBytes, s.tokenText], ['names', s.nameBytes, s.nameText], ['session_ids', s.sessionIdBytes, s.sessionIdText],
]) {
  for (const { bytes, text } of texts[group]) {
    opens('texts', text, () => [decode(text).toString('hex'), encode(hex(bytes))], [bytes, text]);
  }
}
for (const text of texts.bad_keys) refuses('refused texts', text, () => s.parseKey(text), 'MalformedText');
for (const text of texts.bad_lookups) refuses('refused texts', text, () => s.parseLookup(text), 'MalformedText');
for (const text of texts.bad_tokens) refuses('refused texts', text, () => s.tokenBytes(text), 'MalformedToken');
for (const text of texts.bad_names) refuses('refused texts', text, () => s.nameBytes(text), 'MalformedText');

// --- ring-1*.json ----------------------------------------------------------------------------------------------------

const meaning = load('ring-1-meaning.json');
const kekList = s.keyList(meaning.keks.map(({ kid, secret }) => ({
  kid, secret: hex(secret), activatesAt: 0, expiresAt: null, retiresAt: null, revoked: false, disabled: false,
})));
const end = (time) => (time === Infinity ? null : time);

function describeRing(ring, primaries) {
  const span = (key, longTerm) => s.sealingTime(ring, key, meaning.now, longTerm).map(end);
  return {
    skew: ring.skew, announce: ring.announce, revoked_before: ring.revokedBefore, removed: [...ring.removed],
    lookup: ring.lookup && ring.lookup.toString('hex'),
    keys: ring.keys.map((key) => ({
      kid: key.kid, secret: key.secret.toString('hex'), activates_at: key.activatesAt, retires_at: key.retiresAt,
      expires_at: key.expiresAt, disabled: key.disabled,
      may_have_sealed_from: span(key)[0], may_have_sealed_until: span(key)[1],
    })),
    long_term: ring.longTerm.map((key) => ({
      kid: key.kid, secret: key.secret.toString('hex'), activates_at: key.activatesAt,
      may_have_sealed_from: span(key, true)[0],
    })),
    primaries: primaries.map(([time]) => [time, s.primary(ring.keys, time)?.kid ?? null]),
  };
}

for (const { name, text, wrapped, ...expected } of meaning.rings) {
  opens('rings', name, () => describeRing(s.readRing(text, wrapped ? kekList : null), expected.primaries), expected);
}
for (const [name, keks] of [['ring-1.json', null], ['ring-1-wrapped.json', kekList]]) {
  opens('rings', name, () => s.readRing(read(name), keks).ring, load(name).ring);
}
for (const { name, text, has_kek: hasKek } of meaning.refused) {
  refuses('refused rings', name, () => s.readRing(text, hasKek ? kekList : null), 'MalformedRing');
}

// ---------------------------------------------------------------------------------------------------------------------

console.log(Object.entries(counts).map(([group, count]) => `${group}: ${count}`).join('\n'));
console.log(failures ? `${failures} FAILED` : 'all as expected');
process.exitCode = failures ? 1 : 0;
