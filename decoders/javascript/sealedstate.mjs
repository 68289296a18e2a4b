// A decoder of sealedstate's format 1, written from docs/format.md alone.
//
// It reads; it seals nothing. It has no dependencies but Node's own ChaCha20-Poly1305.
// The headings below are those of the page.
//
// Whatever is refused throws `Refused`. Its `outcome` is the name from the page. Where the page has no name,
// it is `MalformedText` (keys, names, ids), `MalformedRing`, or `ExpiredText` (a protected text that is too old).
//
// Values become: null, true, false, text: as in JavaScript; integer: BigInt; float: Number; bytes: Buffer; list: Array;
// all others: an object with a `type`, see `Reader.tagged`. Bytes are Buffers, times are Numbers, versions are BigInts.

import { createDecipheriv } from 'node:crypto';

export class Refused extends Error {
  constructor(outcome, detail = '', known = {}) {
    super(detail ? `${outcome}: ${detail}` : outcome);
    this.outcome = outcome;
    Object.assign(this, known); // what is known all the same: kid, sealedAt, payload or record
  }
}

function refuse(outcome, detail, known) {
  throw new Refused(outcome, detail, known);
}

const bad = (detail) => refuse('MalformedRecord', detail);

// --- Conventions ---------------------------------------------------------------------------------------------------

const ROUNDS = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
ROUNDS.push(ROUNDS[0], ROUNDS[1]);
// A word of 64 bits is two of 32, the low half first.
const IV = Uint32Array.of(
  0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
  0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19,
);
const v = new Uint32Array(32);

function add(a, low, high) { // v[a] += (low, high)
  const sum = v[2 * a] + low;
  v[2 * a + 1] += high + (sum > 0xffffffff ? 1 : 0);
  v[2 * a] = sum;
}

function xorRotate(a, b, bits) { // v[a] = (v[a] ^ v[b]) rotated right
  const low = v[2 * a] ^ v[2 * b];
  const high = v[2 * a + 1] ^ v[2 * b + 1];
  if (bits === 32) { v[2 * a] = high; v[2 * a + 1] = low; return; }
  const [x, y, n] = bits < 32 ? [low, high, bits] : [high, low, bits - 32];
  v[2 * a] = (x >>> n) | (y << (32 - n));
  v[2 * a + 1] = (y >>> n) | (x << (32 - n));
}

function compress(h, block, count, last) {
  v.set(h); v.set(IV, 16);
  v[24] ^= count; v[25] ^= Math.floor(count / 2 ** 32);
  if (last) { v[28] = ~v[28]; v[29] = ~v[29]; }
  const m = new Uint32Array(32);
  for (let i = 0; i < 32; i++) m[i] = block.readUInt32LE(4 * i);
  const mix = (a, b, c, d, x, y) => {
    add(a, v[2 * b], v[2 * b + 1]); add(a, m[2 * x], m[2 * x + 1]); xorRotate(d, a, 32);
    add(c, v[2 * d], v[2 * d + 1]); xorRotate(b, c, 24);
    add(a, v[2 * b], v[2 * b + 1]); add(a, m[2 * y], m[2 * y + 1]); xorRotate(d, a, 16);
    add(c, v[2 * d], v[2 * d + 1]); xorRotate(b, c, 63);
  };
  for (const s of ROUNDS) {
    mix(0, 4, 8, 12, s[0], s[1]); mix(1, 5, 9, 13, s[2], s[3]);
    mix(2, 6, 10, 14, s[4], s[5]); mix(3, 7, 11, 15, s[6], s[7]);
    mix(0, 5, 10, 15, s[8], s[9]); mix(1, 6, 11, 12, s[10], s[11]);
    mix(2, 7, 8, 13, s[12], s[13]); mix(3, 4, 9, 14, s[14], s[15]);
  }
  for (let i = 0; i < 16; i++) h[i] ^= v[i] ^ v[i + 16];
}

/** BLAKE2b (RFC 7693): `bits` of output, keyed if there is a key. */
export function blake2b(bits, message, key = Buffer.alloc(0)) {
  const h = Uint32Array.from(IV);
  h[0] ^= 0x01010000 ^ (key.length << 8) ^ (bits / 8);
  const data = key.length ? Buffer.concat([key, Buffer.alloc(128 - key.length), message]) : Buffer.from(message);
  let at = 0;
  for (; at + 128 < data.length; at += 128) compress(h, data.subarray(at, at + 128), at + 128, false);
  const last = Buffer.alloc(128);
  data.copy(last, 0, at);
  compress(h, last, data.length, true);
  const out = Buffer.alloc(64);
  h.forEach((word, i) => out.writeUInt32LE(word, 4 * i));
  return out.subarray(0, bits / 8);
}

const bytesOf = (part) => (typeof part === 'string' ? Buffer.from(part, 'utf8') : Buffer.from(part));

function integer(n, size) { // big-endian
  return Buffer.from(BigInt(n).toString(16).padStart(2 * size, '0'), 'hex');
}

/** LP: each argument behind its length. Texts are UTF-8. */
export function lp(...parts) {
  return Buffer.concat(parts.map(bytesOf).flatMap((part) => [integer(part.length, 4), part]));
}

function hChaCha20(key, nonce16) {
  const x = new Uint32Array(16);
  x.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  for (let i = 0; i < 8; i++) x[4 + i] = key.readUInt32LE(4 * i);
  for (let i = 0; i < 4; i++) x[12 + i] = nonce16.readUInt32LE(4 * i);
  const turn = (a, b, bits) => { const w = x[a] ^ x[b]; x[a] = (w << bits) | (w >>> (32 - bits)); };
  const quarter = (a, b, c, d) => {
    x[a] += x[b]; turn(d, a, 16); x[c] += x[d]; turn(b, c, 12);
    x[a] += x[b]; turn(d, a, 8); x[c] += x[d]; turn(b, c, 7);
  };
  for (let round = 0; round < 10; round++) {
    quarter(0, 4, 8, 12); quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15);
    quarter(0, 5, 10, 15); quarter(1, 6, 11, 12); quarter(2, 7, 8, 13); quarter(3, 4, 9, 14);
  }
  const out = Buffer.alloc(32);
  [0, 1, 2, 3, 12, 13, 14, 15].forEach((word, i) => out.writeUInt32LE(x[word], 4 * i));
  return out;
}

/** Opens XChaCha20-Poly1305; null if the tag is wrong. */
export function xChaChaOpen(key, nonce, associated, ciphertext, tag) {
  const iv = Buffer.concat([Buffer.alloc(4), nonce.subarray(16)]);
  const cipher = createDecipheriv('chacha20-poly1305', hChaCha20(key, nonce.subarray(0, 16)), iv, { authTagLength: 16 });
  cipher.setAAD(associated, { plaintextLength: ciphertext.length });
  cipher.setAuthTag(tag);
  const plain = cipher.update(ciphertext);
  try {
    return Buffer.concat([plain, cipher.final()]);
  } catch {
    return null;
  }
}

// --- Texts ---------------------------------------------------------------------------------------------------------

// Base64 without padding, with two letters of our own for + and /. Each byte string has one text.
function fromBase64(text, plus, slash) {
  if (text.length % 4 === 1 || !new RegExp(`^[A-Za-z0-9\\${plus}${slash}]*$`).test(text)) return null;
  const standard = text.replaceAll(plus, '-').replaceAll(slash, '_');
  const bytes = Buffer.from(standard, 'base64url');
  return bytes.toString('base64url') === standard ? bytes : null; // no bits to spare are set
}

const toBase64 = (bytes, plus, slash) => bytes.toString('base64url').replaceAll('-', plus).replaceAll('_', slash);

/** The bytes of a token's text. */
export const tokenBytes = (text) => fromBase64(text, '*', '_') ?? refuse('MalformedToken', 'not the text of a token');
export const tokenText = (bytes) => toBase64(bytes, '*', '_');

/** The bytes of a name in a store, or of a derived identifier. */
export const nameBytes = (text) => fromBase64(text, '.', '_') ?? refuse('MalformedText', 'not the text of a name');
export const nameText = (bytes) => toBase64(bytes, '.', '_');

/** A session's id as text, and back. */
export const sessionIdText = (id) => id.toString('base64url');
export function sessionIdBytes(text) {
  const id = fromBase64(text, '-', '_');
  return id?.length === 16 ? id : refuse('MalformedText', 'not a session id');
}

// --- Keys ----------------------------------------------------------------------------------------------------------

const subkeys = new Map();

/** The subkey of a secret for a use, a purpose and a realm. */
export function subkey(secret, use, purpose, realm) {
  const label = lp('sealedstate/1', use, purpose, realm);
  const name = `${secret.toString('hex')} ${label.toString('hex')}`;
  if (!subkeys.has(name)) {
    if (subkeys.size > 1000) subkeys.clear();
    subkeys.set(name, blake2b(256, label, secret));
  }
  return subkeys.get(name);
}

function checkSecret(secret) {
  const step = (i) => (secret[i + 1] - secret[i] + 256) % 256;
  const weak = new Set(secret).size < 16
    || secret.subarray(0, 31).every((_, i) => step(i) === step(0))
    || secret.every((byte) => byte >= 0x20 && byte <= 0x7e);
  if (weak) refuse('MalformedText', 'no random source makes this secret');
  return secret;
}

function secretBytes(text) {
  const secret = text.length === 43 ? fromBase64(text, '-', '_') : null;
  return secret ? checkSecret(secret) : refuse('MalformedText', 'not a secret');
}

const strip = (text) => text.replace(/^[\t-\r ]+|[\t-\r ]+$/g, '');

/** A key, or a key-encryption key, from its text: `sealedstate-key-1:kid:secret`, perhaps with `@` and a date. */
export function parseKey(text) {
  const parts = /^sealedstate-key-1:([0-9a-f]{8}):([A-Za-z0-9_-]{43})(?:[\t-\r ]*@[\t-\r ]*(.*))?$/.exec(strip(text));
  if (!parts) refuse('MalformedText', 'not a key');
  return {
    kid: parts[1], secret: secretBytes(parts[2]), activatesAt: parts[3] === undefined ? 0 : parseDate(parts[3]),
    expiresAt: null, retiresAt: null, revoked: false, disabled: false,
  };
}

function parseDate(text) {
  const parts = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:Z|([+-])(\d\d):(\d\d))$/.exec(text);
  if (!parts) refuse('MalformedText', 'not a date and time with a zone');
  const [, wall, sign, hours = 0, minutes = 0] = parts;
  const offset = (Number(hours) * 3600 + Number(minutes) * 60) * (sign === '-' ? -1 : 1);
  return utcSeconds(`${wall}Z`, 'MalformedText') - offset;
}

function utcSeconds(text, outcome) {
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(text) ? Date.parse(text) : NaN;
  if (Number.isNaN(time) || new Date(time).toISOString() !== text.replace('Z', '.000Z')) refuse(outcome, 'not a time');
  return time / 1000;
}

/** A lookup secret from its text. */
export function parseLookup(text) {
  const parts = /^sealedstate-lookup-1:([A-Za-z0-9_-]{43})$/.exec(strip(text));
  return parts ? secretBytes(parts[1]) : refuse('MalformedText', 'not a lookup secret');
}

/** What a reader knows of its keys, from keys. (Those of the vectors are in no order.) */
export function keyList(keys, { skew = 60, announce = 0, lookup = null } = {}) {
  if (new Set(keys.map((key) => key.kid)).size !== keys.length) refuse('MalformedText', 'a kid twice');
  return { keys, longTerm: null, removed: new Set(), revokedBefore: 0, skew, announce, lookup };
}

/** What a reader knows of its keys, from the texts of a list, of which one may be the lookup secret. */
export function parseKeyList(texts, options) {
  const isLookup = (text) => strip(text).startsWith('sealedstate-lookup-1:');
  const lookups = texts.filter(isLookup).map(parseLookup);
  if (lookups.length > 1) refuse('MalformedText', 'two lookup secrets');
  const keys = texts.filter((text) => !isLookup(text)).map(parseKey);
  if (new Set(keys.map((key) => key.secret.toString('hex'))).size !== keys.length) refuse('MalformedText', 'a secret twice');
  if (keys.some((key, i) => i && keys[i - 1].activatesAt < key.activatesAt)) refuse('MalformedText', 'a key before a later one');
  return keyList(keys, lookups.length ? { ...options, lookup: lookups[0] } : options);
}

const expired = (key, t) => key.expiresAt !== null && t >= key.expiresAt;

/** The key that seals at t, or null. */
export function primary(keys, t) {
  const open = keys.filter((k) => k.activatesAt <= t && !k.revoked && !k.disabled && !expired(k, t));
  return open.reduce((best, k) => (best === null || k.activatesAt > best.activatesAt ? k : best), null);
}

/** From when and until when a key may have sealed, as seen at t. The end is Infinity if there is none. */
export function sealingTime(known, key, t, longTerm = false) {
  const others = known.keys.filter((k) => k.activatesAt > key.activatesAt && !k.revoked && !k.disabled && !expired(k, t));
  const takenOver = longTerm ? Infinity : key.retiresAt ?? Math.min(...others.map((k) => k.activatesAt));
  return [key.activatesAt - known.skew, takenOver + known.announce + known.skew];
}

// --- Tokens --------------------------------------------------------------------------------------------------------

/**
 * Opens a token, given as bytes, for a token context { purpose, realm, name: [field, ...] }.
 * Rows that are sealed by a long-term key are opened with `longTerm`.
 */
export function openToken(known, token, { purpose, realm, name }, now, asLongTerm = false) {
  const claims = token.length < 10 ? {} : { kid: token.toString('hex', 1, 5), sealedAt: token.readUIntBE(5, 5) };
  if (token[0] >= 0x02 && token[0] <= 0x0f && token.length >= 10) refuse('UnknownFormat', '', claims);
  if (token[0] !== 0x01 || token.length < 50) refuse('MalformedToken');
  const { kid, sealedAt } = claims;
  const [keys, longTerm] = asLongTerm && known.longTerm ? [known.longTerm, true] : [known.keys, false];
  const key = keys.find((k) => k.kid === kid);
  if (!key) refuse(!longTerm && known.removed.has(kid) ? 'KeyOutOfUse' : 'UnknownKey', kid, claims);
  if (key.revoked || expired(key, now)) refuse('KeyOutOfUse', kid, claims);
  const [header, end] = [token.subarray(0, 34), token.length - 16];
  const associated = Buffer.concat([lp('sealedstate/1', purpose, realm, ...name), header]);
  const secret = subkey(key.secret, 'seal', purpose, realm);
  const payload = xChaChaOpen(secret, header.subarray(10), associated, token.subarray(34, end), token.subarray(end));
  if (payload === null) refuse('ForgedToken', '', claims);
  const [from, until] = sealingTime(known, key, sealedAt, longTerm);
  if (sealedAt < from || sealedAt > until) refuse('KeyOutOfUse', 'not at this time', claims);
  if (key.disabled) refuse('KeyDisabled', kid, { ...claims, payload });
  return { kid, sealedAt, payload };
}

// --- Values --------------------------------------------------------------------------------------------------------

const MAX_VALUE = 1048576;
const MAX_DEPTH = 16;
const MAX_ODD = 1024; // members or keys that are neither text nor bytes
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// Reads the CBOR of values and of records. `value` reads any value; the other methods read what must be there.
class Reader {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }

  left() { return this.bytes.length - this.at; }

  take(count) {
    if (count > this.left()) bad('cut short');
    const start = this.at;
    this.at += Number(count);
    return this.bytes.subarray(start, this.at);
  }

  end() { if (this.left()) bad('bytes behind the end'); }

  // The major type and the number of a head, which has the shortest form.
  head() {
    const [first] = this.take(1);
    const [major, info] = [first >> 5, first & 31];
    if (info < 24) return [major, BigInt(info)];
    if (info > 27) bad('indefinite or reserved');
    const size = 1 << (info - 24);
    const number = BigInt(`0x${this.take(size).toString('hex')}`);
    if (number < [24n, 0x100n, 0x10000n, 0x100000000n][info - 24]) bad('a head that is too long');
    return [major, number];
  }

  expect(major) {
    const [found, number] = this.head();
    return found === major ? number : bad(`major type ${found} in place of ${major}`);
  }

  string(count) {
    const bytes = this.take(count);
    try {
      return utf8.decode(bytes);
    } catch {
      return bad('not UTF-8');
    }
  }

  text() { return this.string(this.expect(3)); }

  blob(size = null) {
    const found = this.take(this.expect(2));
    return size === null || found.length === size ? found : bad('bytes of another length');
  }

  array() {
    const count = this.expect(4);
    return count <= this.left() ? Number(count) : bad('cut short');
  }

  isNull() {
    if (this.bytes[this.at] !== 0xf6) return false;
    this.at++;
    return true;
  }

  // An integer of major type 0 or 1, within its range.
  small(from, to) {
    const [major, number] = this.head();
    if (major > 1) bad('not an integer');
    const found = major ? -1n - number : number;
    return found >= from && found <= to ? found : bad('an integer that is out of range');
  }

  // `depth` is the depth that a container has here, seen from the outside.
  value(depth = 1) {
    const first = this.bytes[this.at];
    if (first >> 5 === 7) return this.simple();
    const [major, number] = this.head();
    switch (major) {
      case 0:
      case 1: return this.integer(major, number);
      case 2: return this.take(number);
      case 3: return this.string(number);
      case 4: return this.items(number, depth);
      case 5: return this.dict(number, depth);
      default: return this.tagged(number, depth);
    }
  }

  simple() {
    const [first] = this.take(1);
    switch (first) {
      case 0xf4: return false;
      case 0xf5: return true;
      case 0xf6: return null;
      case 0xf9: {
        const half = this.take(2).toString('hex');
        return { '7c00': Infinity, fc00: -Infinity, '7e00': NaN }[half] ?? bad('a short float');
      }
      case 0xfb: {
        const float = this.take(8).readDoubleBE();
        return Number.isFinite(float) ? float : bad('infinity or NaN in 8 bytes');
      }
      default: return bad('another simple value');
    }
  }

  count(number, depth, items = number) {
    if (depth > MAX_DEPTH) bad('too deep');
    if (items > this.left()) bad('cut short');
    return Number(number);
  }

  items(number, depth) {
    return Array.from({ length: this.count(number, depth) }, () => this.value(depth + 1));
  }

  // Keys or members: none is there twice, and few are neither text nor bytes.
  unique() {
    const seen = new Set();
    let odd = 0;
    return (value) => {
      const same = equality(value);
      if (seen.has(same)) bad('there twice');
      seen.add(same);
      if (typeof value !== 'string' && !Buffer.isBuffer(value) && ++odd > MAX_ODD) bad('too many keys or members');
    };
  }

  dict(number, depth) {
    const entries = [];
    const check = this.unique();
    for (let i = this.count(number, depth, 2n * number); i > 0; i--) {
      const key = this.value(depth + 1);
      if (typeof key !== 'string' && !Buffer.isBuffer(key)) bad('a key that is neither text nor bytes');
      check(key);
      entries.push([key, this.value(depth + 1)]);
    }
    return { type: 'dict', entries };
  }

  pairs(depth) {
    const number = this.expect(4);
    if (number % 2n) bad('a key without a value');
    const entries = [];
    const check = this.unique();
    for (let i = this.count(number, depth); i > 0; i -= 2) {
      const key = this.value(depth + 1);
      check(key);
      entries.push([key, this.value(depth + 1)]);
    }
    if (entries.every(([key]) => typeof key === 'string' || Buffer.isBuffer(key))) bad('pairs that are a dict');
    return { type: 'dict', entries };
  }

  set(depth) {
    const members = [];
    const check = this.unique();
    let before = null;
    for (let i = this.count(this.expect(4), depth); i > 0; i--) {
      const start = this.at;
      members.push(this.value(depth + 1));
      const encoding = this.bytes.subarray(start, this.at);
      if (before && Buffer.compare(before, encoding) >= 0) bad('members out of order');
      before = encoding;
      check(members.at(-1));
    }
    return { type: 'set', members };
  }

  // An integer of any size, behind its head.
  integer(major, number) {
    if (major === 0) return number;
    if (major === 1) return -1n - number;
    if (major !== 6 || (number !== 2n && number !== 3n)) bad('not an integer');
    const bytes = this.blob();
    if (bytes.length < 9 || bytes[0] === 0 || bytes.length > 512) bad('a big integer of another length');
    const found = BigInt(`0x${bytes.toString('hex')}`);
    if (number === 2n) return found;
    return found < (1n << 4096n) - 1n ? -1n - found : bad('an integer that is too large');
  }

  timedelta() {
    const microseconds = this.integer(...this.head());
    if (microseconds < -86399999913600000000n || microseconds > 86399999999999999999n) bad('out of range');
    return { type: 'timedelta', microseconds };
  }

  tagged(tag, depth) {
    switch (tag) {
      case 2n:
      case 3n: return this.integer(6, tag);
      case 6n: return { type: 'tuple', items: this.items(this.expect(4), depth) };
      case 7n: return this.datetime();
      case 8n: return this.timedelta();
      case 9n: return this.pairs(depth);
      case 10n: return { type: 'markup', text: this.text() };
      case 11n: return { type: 'decimal', text: decimal(this.text()).text };
      case 37n: {
        const hex = this.blob(16).toString('hex');
        return { type: 'uuid', text: hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5') };
      }
      case 100n: return { type: 'date', days: Number(this.small(-719162n, 2932896n)) };
      case 258n: return this.set(depth);
      default: return bad(`tag ${tag}`);
    }
  }

  datetime() {
    const count = this.array();
    if (count !== 2 && count !== 3) bad('a date and time of another length');
    const microseconds = this.small(-62135596800000000n, 253402300799999999n);
    const float = this.bytes[this.at] === 0xfb;
    const offset = this.isNull() ? null : float ? this.value() : Number(this.small(-86399n, 86399n));
    if (float && (Number.isInteger(offset) || Math.round(offset * 1e6) / 1e6 !== offset || Math.abs(offset) >= 86400)) {
      bad('an offset of no microseconds');
    }
    if (count === 3) this.small(1n, 1n);
    return { type: 'datetime', microseconds, offset, fold: count - 2 };
  }
}

/** Decodes a value. */
export function decodeValue(bytes) {
  if (bytes.length > MAX_VALUE) bad('a value that is too long');
  const reader = new Reader(bytes);
  const value = reader.value();
  reader.end();
  return value;
}

// A decimal's text, checked, with its sign, coefficient and exponent (if it is a number).
function decimal(text) {
  if (/^-?(Infinity|s?NaN([1-9][0-9]*)?)$/.test(text)) return { text };
  const parts = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:E([+-][0-9]+))?$/.exec(text);
  if (!parts) bad('not a decimal');
  const [, sign, whole, fraction = '', power = '0'] = parts;
  const coefficient = (whole + fraction).replace(/^0+(?=.)/, '');
  const exponent = Number(power) - fraction.length;
  const adjusted = exponent + coefficient.length - 1;
  if (Math.abs(adjusted) > 999999) bad('a decimal that is out of range');
  let written;
  if (exponent <= 0 && adjusted >= -6) {
    const digits = coefficient.padStart(1 - exponent, '0');
    const point = digits.length + exponent;
    written = digits.slice(0, point) + (exponent ? `.${digits.slice(point)}` : '');
  } else {
    const rest = coefficient.length > 1 ? `.${coefficient.slice(1)}` : '';
    written = `${coefficient[0]}${rest}E${adjusted < 0 ? '-' : '+'}${Math.abs(adjusted)}`;
  }
  return sign + written === text ? { text, sign, coefficient, exponent } : bad('another spelling of a decimal');
}

// A text that two values share if, and only if, they are equal. Refuses what is no key and no member.
function equality(value) {
  switch (typeof value) {
    case 'string': return `text ${value}`;
    case 'boolean': return sameNumber('', value ? '1' : '0', 0);
    case 'bigint': return sameNumber(value < 0n ? '-' : '', `${value < 0n ? -value : value}`, 0);
    case 'number': return sameFloat(value);
    default:
  }
  if (value === null) return 'null';
  if (Buffer.isBuffer(value)) return `bytes ${value.toString('hex')}`;
  switch (value.type) {
    case 'markup': return `text ${value.text}`;
    case 'decimal': {
      if (value.text.includes('sNaN')) bad('a signaling NaN in a key or member');
      const { text, sign, coefficient, exponent } = decimal(value.text);
      if (coefficient !== undefined) return sameNumber(sign, coefficient, exponent);
      return text.endsWith('Infinity') ? `number ${text}` : `decimal ${text}`;
    }
    case 'datetime': {
      if (value.offset === null) return `naive ${value.microseconds}`;
      return `instant ${value.microseconds - BigInt(Math.round(value.offset * 1e6))}`;
    }
    case 'date': return `date ${value.days}`;
    case 'timedelta': return `timedelta ${value.microseconds}`;
    case 'uuid': return `uuid ${value.text}`;
    case 'tuple': return `tuple ${value.items.map(equality).map((text) => `${text.length}:${text}`).join('')}`;
    default: return bad('a list, dict or set in a key or member');
  }
}

function sameNumber(sign, digits, exponent) {
  if (digits === '0') return 'number 0';
  let end = digits.length;
  while (digits[end - 1] === '0') end--;
  return `number ${sign}${digits.slice(0, end)}E${exponent + digits.length - end}`;
}

function sameFloat(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'float NaN' : `number ${value}`;
  let [scaled, twos] = [Math.abs(value), 0];
  while (!Number.isInteger(scaled)) { scaled *= 2; twos++; } // exact
  return sameNumber(value < 0 ? '-' : '', `${BigInt(scaled) * 5n ** BigInt(twos)}`, -twos);
}

// --- Records -------------------------------------------------------------------------------------------------------

const FORTY = 1n << 40n;
const MAX_FIELDS = 512;

function readPairs(reader, readSecond) {
  const count = reader.array();
  if (count % 2) bad('a name without its value');
  const found = new Map();
  for (let i = 0; i < count; i += 2) {
    const name = reader.text();
    if (found.has(name)) bad('a name twice');
    found.set(name, readSecond());
  }
  return found;
}

const readParts = (reader) => readPairs(reader, () => reader.blob());
const readVersions = (reader) => readPairs(reader, () => reader.small(1n, (1n << 63n) - 1n));

function readOverflow(reader) {
  if (reader.isNull()) return null;
  if (reader.array() !== 4) bad('overflow of another length');
  const found = { setId: reader.blob(8), count: Number(reader.small(1n, 7n)), digest: reader.blob(16), names: [] };
  for (let i = reader.array(); i > 0; i--) found.names.push(reader.text());
  if (new Set(found.names).size !== found.names.length) bad('a name twice');
  return found;
}

/** Decodes the payload of a core. Parts are the encodings of their values; `orphaned` are rows that can be deleted. */
export function decodeRecord(payload, sealedAt) {
  const reader = new Reader(payload);
  const id = reader.take(16);
  const count = reader.array();
  if (count !== 5 && count !== 6) bad('a record of another length');
  const subject = reader.isNull() ? null : reader.text();
  const createdAt = sealedAt - Number(reader.small(-FORTY, FORTY - 1n));
  const lifetime = Number(reader.small(-FORTY, FORTY - 1n));
  if (lifetime < 0 && (-1 - lifetime) % 3600 === 0) bad('whole hours in seconds');
  const expiresAt = createdAt + (lifetime < 0 ? -1 - lifetime : 3600 * lifetime);
  const generation = Number(reader.small(0n, FORTY - 1n));
  const parts = readParts(reader);
  let [overflow, spilled, orphaned] = [null, new Map(), new Map()];
  if (count === 6) {
    if (reader.array() !== 3) bad('a manifest of another length');
    overflow = readOverflow(reader);
    spilled = readVersions(reader);
    orphaned = readVersions(reader);
    if (!overflow && !spilled.size && !orphaned.size) bad('a manifest that states nothing');
  }
  const places = [...parts.keys(), ...(overflow?.names ?? []), ...spilled.keys()];
  if (new Set(places).size !== places.length) bad('a part in two places');
  if ([...spilled.keys()].some((name) => orphaned.has(name))) bad('a row both spilled and orphaned');
  const record = { id, subject, sealedAt, createdAt, expiresAt, generation, parts, overflow, spilled, orphaned };
  return Object.assign(record, decodeFields(reader.take(reader.left()), record));
}

// The terms, and the fields that are kept: { terms, fields: Map of number to value }.
function decodeFields(bytes, record) {
  if (bytes.length > MAX_FIELDS) bad('too many bytes of fields');
  const reader = new Reader(bytes);
  const fields = new Map();
  for (let before = 0; reader.left();) {
    const [number] = reader.take(1);
    if (number <= before || number === 255) bad('a field out of order, or of no number');
    const [length] = reader.take(1);
    fields.set(number, reader.take(length));
    before = number;
  }
  if (fields.get(253)?.some((byte) => byte !== 0)) bad('padding that is not zero');
  fields.delete(253);
  const terms = fields.has(1) ? decodeTerms(fields.get(1)) : null;
  fields.delete(1);
  const device = fields.get(2);
  const isKnown = device?.length === 33 && (device[0] === 2 || device[0] === 3);
  const critical = [...fields.keys()].find((number) => number < 128 && !(number === 2 && isKnown));
  if (critical !== undefined) refuse('UnknownField', `${critical}`, { record });
  return { terms, fields };
}

function decodeTerms(bytes) {
  const [first] = bytes;
  const idle = bytes.subarray(1);
  if (![0, 1, 2, 4, 5, 6].includes(first) || idle.length > 4 || idle[0] === 0) bad('terms of another form');
  if (first === 0 && !idle.length) bad('terms that say nothing');
  return {
    persistent: [null, false, true][first & 3],
    idle: idle.length ? idle.readUIntBE(0, idle.length) : null,
    hasOwnEnd: first >= 4,
  };
}

/** Decodes the payload of an overflow's token. */
export function decodeParts(payload) {
  const reader = new Reader(payload);
  const parts = readParts(reader);
  reader.end();
  return parts;
}

/**
 * Opens the overflow of a record from the values of NAME-1, NAME-2, ...; null if its parts are lost.
 * A key that is out of use, too, means that they are lost.
 */
export function openOverflow(known, record, chunks, { cookieName, realm }, now) {
  const { setId, count, digest, names } = record.overflow;
  if (chunks.length < count) return null;
  try {
    const token = tokenBytes(chunks.slice(0, count).join(''));
    if (!blake2b(128, token).equals(digest)) return null;
    const context = { purpose: 'overflow', realm, name: [cookieName, record.id, setId] };
    const parts = decodeParts(openToken(known, token, context, now).payload);
    return JSON.stringify([...parts.keys()]) === JSON.stringify(names) ? parts : null;
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

// --- Cookies -------------------------------------------------------------------------------------------------------

/**
 * Opens the value of a core. `settings` has cookieName, realm, idleLifetime, absoluteLifetime, longestLifetime,
 * perhaps variant, and skew if it is not that of the keys. For sessions that are bound to a device it has boundTexts,
 * the values of the bound cookie, and boundLifetime.
 * `store`, if there is one, is a function of a context and a key: it returns { version, value }, or nothing.
 */
export function openCore(known, text, settings, now, store = null) {
  return checkRecord(known, decodeCore(known, text, settings, now), settings, now, store);
}

function decodeCore(known, text, { cookieName, variant = [], realm }, now) {
  const context = { purpose: 'core', realm, name: [cookieName, ...variant] };
  const { sealedAt, payload } = openToken(known, tokenBytes(text), context, now);
  if (sealedAt < known.revokedBefore) refuse('SealedBefore');
  return decodeRecord(payload, sealedAt);
}

function checkRecord(known, record, settings, now, store) {
  const { realm, idleLifetime, absoluteLifetime, longestLifetime } = settings;
  const { sealedAt } = record;
  if (sealedAt > now + 2 * (settings.skew ?? known.skew)) refuse('FutureSession', '', { record });
  const end = record.createdAt + (record.terms?.hasOwnEnd ? longestLifetime : absoluteLifetime);
  const idleEnd = sealedAt + (record.terms?.idle ?? idleLifetime);
  if (now >= record.expiresAt || now >= end || now >= idleEnd) refuse('ExpiredSession', '', { record });
  if (store && isRevoked(known, record, realm, now, store)) refuse('RevokedSession', '', { record });
  const device = record.fields.get(2);
  if (device && !isBound(known, device, settings, now)) refuse('UnboundSession', '', { record });
  return record;
}

function isBound(known, device, { cookieName, variant = [], realm, skew, boundTexts = [], boundLifetime = 300 }, now) {
  const context = { purpose: 'bound', realm, name: [cookieName, device, ...variant] };
  return boundTexts.some((text) => {
    const opened = unlessRefused(() => openToken(known, tokenBytes(text), context, now));
    return opened && opened.sealedAt <= now + 2 * (skew ?? known.skew) && now < opened.sealedAt + boundLifetime;
  });
}

/** Opens a session from all values of NAME: the record that counts, or null if none passes, or two sessions do. */
export function openSession(known, texts, settings, now, store = null) {
  const newest = new Map();
  for (const text of texts) {
    const record = unlessRefused(() => decodeCore(known, text, settings, now));
    const other = record && newest.get(record.id.toString('hex'));
    const isOlder = other && (record.generation - other.generation || record.sealedAt - other.sealedAt) < 0;
    if (record && !isOlder) newest.set(record.id.toString('hex'), record);
  }
  const passed = [...newest.values()]
    .filter((record) => unlessRefused(() => checkRecord(known, record, settings, now, store)));
  return passed.length === 1 ? passed[0] : null;
}

function unlessRefused(open) {
  try {
    return open();
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

// --- Stored values -------------------------------------------------------------------------------------------------

const rowKey = (...parts) => nameText(blake2b(192, lp('sealedstate/1', ...parts)));
const keyedRowKey = (known, ...parts) => nameText(blake2b(192, lp('sealedstate/1', ...parts), known.lookup));

export const partKey = (sessionId, name) => rowKey('part', sessionId, name);
export const revokedKey = (realm, sessionId) => rowKey('revoked', realm, sessionId);
export const watermarkKey = (known, realm, subject) => keyedRowKey(known, 'watermark', realm, subject);

/** Opens the value of a row; returns the token's payload. */
export function openStored(known, token, { realm, context, key, version }, now, longTerm = false) {
  const name = [context, key, integer(version, 8)];
  return openToken(known, token, { purpose: 'stored', realm, name }, now, longTerm).payload;
}

/** What a row of `sealedstate.revoked` says: `signed out`, `ended`, or the successor under a new id. */
export function decodeRevoked(payload) {
  if (payload.length !== 49 || payload[0] !== 1) return payload.length ? 'ended' : 'signed out';
  return {
    replacedAt: Number(payload.readBigUInt64BE(1)), expiresAt: Number(payload.readBigUInt64BE(9)),
    id: payload.subarray(17, 33), subject: payload.subarray(33, 41), replacedSubject: payload.subarray(41),
  };
}

/** The mark of a subject in such a row. */
export const subjectMark = (subject) => (subject === null ? Buffer.alloc(8) : blake2b(64, lp(subject)));

/** The time in a row of `sealedstate.watermark`. */
export function decodeWatermark(payload) {
  return Number(BigInt(`0x0${payload.toString('hex')}`));
}

function isRevoked(known, record, realm, now, store) {
  if (store('sealedstate.revoked', revokedKey(realm, record.id))) return true;
  if (record.subject === null || !known.lookup) return false;
  const [context, key] = ['sealedstate.watermark', watermarkKey(known, realm, record.subject)];
  const row = store(context, key);
  if (!row) return false;
  const payload = openStored(known, row.value, { realm, context, key, version: row.version }, now);
  return record.createdAt <= decodeWatermark(payload);
}

/** Opens a cookie that is a store: [records, indexes], two dicts. */
export function openMap(known, text, { cookieName, variant = [], realm }, now) {
  const token = tokenBytes(text);
  const value = decodeValue(openToken(known, token, { purpose: 'map', realm, name: [cookieName, ...variant] }, now).payload);
  const isTime = (x) => x === null || typeof x === 'bigint';
  const isRecord = (x) => Array.isArray(x) && x.length === 3 && Buffer.isBuffer(x[0]) && typeof x[1] === 'bigint' && isTime(x[2]);
  const isDict = (x, item, mayBeEmpty = false) => x?.type === 'dict' && (mayBeEmpty || x.entries.length > 0)
    && x.entries.every(([key, found]) => typeof key === 'string' && item(found));
  if (!Array.isArray(value) || value.length !== 2) bad('not a store');
  if (!isDict(value[0], (rows) => isDict(rows, isRecord), true)) bad('not the records of a store');
  if (!isDict(value[1], (rows) => isDict(rows, (members) => isDict(members, isTime)), true)) bad('not its indexes');
  return value;
}

/** Opens a text of the protector `name`, bound to the fields `bound`. Returns the value. */
export function openProtected(known, text, { name, realm, bound = [], maxAge = Infinity }, now) {
  const token = fromBase64(text, '-', '_') ?? refuse('MalformedToken');
  const { sealedAt, payload } = openToken(known, token, { purpose: `protector/${name}`, realm, name: bound }, now);
  if (sealedAt < known.revokedBefore) refuse('SealedBefore');
  if (sealedAt > now + 2 * known.skew) refuse('FutureSession');
  if (now >= sealedAt + maxAge) refuse('ExpiredText');
  const skip = payload[0] === 0 ? 1 : 0;
  if (payload[skip] !== 1) bad('not the payload of a protected text');
  return decodeValue(payload.subarray(skip + 1));
}

// --- The ring document ---------------------------------------------------------------------------------------------

const MAX_RING = 4194304;
const MAX_SECONDS = 3153600000;
const badRing = (detail) => refuse('MalformedRing', detail);

function ascii(text) {
  return JSON.stringify(text).replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

// JSON in ASCII. With an indent: the document's spelling. Without: sorted and without blanks, for the checksum.
function json(value, indent = null) {
  if (typeof value === 'string') return ascii(value);
  if (value === null || typeof value !== 'object') return String(value);
  const next = indent === null ? null : `${indent}  `;
  const [opening, closing] = Array.isArray(value) ? '[]' : '{}';
  const names = Object.keys(value);
  if (indent === null && !Array.isArray(value)) names.sort();
  const colon = indent === null ? ':' : ': ';
  const items = names.map((name) => (Array.isArray(value) ? '' : ascii(name) + colon) + json(value[name], next));
  if (indent === null || !items.length) return opening + items.join(',') + closing;
  return `${opening}\n${items.map((item) => next + item).join(',\n')}\n${indent}${closing}`;
}

function members(object, ...names) {
  const plain = object !== null && typeof object === 'object' && !Array.isArray(object);
  if (!plain || Object.keys(object).join() !== names.join()) badRing(`members other than ${names.join()}`);
}

function ringTime(text) {
  const time = typeof text === 'string' ? utcSeconds(text, 'MalformedRing') : badRing('not a time');
  return time >= 0 ? time : badRing('before 1970');
}

const ringText = (text, pattern) => (typeof text === 'string' && pattern.test(text) ? text : badRing(`not ${pattern}`));
const KID = /^[0-9a-f]{8}$/;

function ringKey(key, open, mayBeDisabled) {
  const disabled = mayBeDisabled && Object.hasOwn(key ?? {}, 'disabled_at');
  const secretName = open.wrapped ? 'wrapped' : 'secret';
  members(key, 'kid', 'created_at', 'activates_at', ...(disabled ? ['disabled_at'] : []), secretName);
  ringText(key.kid, KID);
  ringTime(key.created_at);
  const activatesAt = ringTime(key.activates_at);
  const disabledAt = disabled ? ringTime(key.disabled_at) : null;
  const secret = open(key[secretName], key.kid);
  return { kid: key.kid, secret, activatesAt, disabledAt, disabled, revoked: false, retiresAt: null, expiresAt: null };
}

function differ(texts, what) {
  if (new Set(texts).size !== texts.length) badRing(`${what} twice`);
}

/**
 * Reads a ring document (text or bytes). `keks` is what `keyList` gives for the key-encryption keys, or null without any.
 * Returns what the reader knows of the keys, as `openToken` wants it.
 */
export function readRing(document, keks = null) {
  try {
    return readDocument(document, keks);
  } catch (error) {
    if (error instanceof Refused && error.outcome !== 'MalformedRing') badRing(error.message);
    throw error;
  }
}

function readDocument(document, keks) {
  const bytes = bytesOf(document);
  if (bytes.length > MAX_RING) badRing('too long');
  const text = bytes.toString('latin1');
  let doc;
  try {
    doc = JSON.parse(text);
  } catch {
    badRing('not JSON');
  }
  const lasting = Object.hasOwn(doc ?? {}, 'lasting') ? ['lasting'] : [];
  members(doc, 'format', 'ring', 'sequence', 'updated_at', 'schedule', 'keys', 'lookup', ...lasting, 'tombstones',
    'revoked_before', 'wrapped_by', 'checksum');
  // JavaScript's numbers are too small for the sequence, so its digits are read again.
  const digits = /^\{\n {2}"format": .*\n {2}"ring": .*\n {2}"sequence": ([1-9][0-9]{0,18}),\n/.exec(text);
  doc.sequence = digits ? BigInt(digits[1]) : badRing('not a sequence');
  if (doc.sequence >= 1n << 63n) badRing('a sequence that is too large');
  if (`${json(doc, '')}\n` !== text) badRing('another spelling');

  if (doc.format !== 'sealedstate-ring-1') badRing('another format');
  ringText(doc.ring, /^[0-9a-f]{16}$/);
  ringText(doc.checksum, /^[0-9a-f]{32}$/);
  const updatedAt = ringTime(doc.updated_at);
  members(doc.schedule, 'rotate_every', 'announce', 'keep', 'skew');
  for (const [name, seconds] of Object.entries(doc.schedule)) {
    const least = name === 'skew' ? 0 : 1;
    if (!Number.isInteger(seconds) || seconds < least || seconds > MAX_SECONDS) badRing(name);
  }

  let open = (secret) => secretOf(secret);
  let checksumKey;
  if (doc.wrapped_by !== null) {
    ringText(doc.wrapped_by, KID);
    const kek = keks?.keys.find((key) => key.kid === doc.wrapped_by) ?? badRing('no such key-encryption key');
    checksumKey = subkey(kek.secret, 'checksum', 'ring', doc.ring);
    open = (wrapped, name) => unwrap(wrapped, name, keks, doc, updatedAt); // these keys do not expire
    open.wrapped = true;
  } else if (keks) {
    badRing('not wrapped');
  }
  const { checksum, ...rest } = doc;
  if (blake2b(128, Buffer.from(json(rest)), checksumKey).toString('hex') !== checksum) badRing('another checksum');

  for (const list of [doc.keys, doc.tombstones, ...lasting.map((name) => doc[name])]) {
    if (!Array.isArray(list)) badRing('not an array');
  }
  const keys = doc.keys.map((key) => ringKey(key, open, true));
  const longTerm = (doc.lasting ?? []).map((key) => ringKey(key, open, false));
  if (!keys.length || (lasting.length && !longTerm.length)) badRing('no keys');
  for (const tombstone of doc.tombstones) {
    members(tombstone, 'kid', 'activates_at', 'at', 'sealed', 'revoked', 'reason');
    ringText(tombstone.kid, KID);
    ringTime(tombstone.at);
    if (typeof tombstone.sealed !== 'boolean' || typeof tombstone.revoked !== 'boolean') badRing('not true or false');
    if (typeof tombstone.reason !== 'string') badRing('not a text');
  }
  const removed = doc.tombstones.map((tombstone) => tombstone.kid);
  differ([...keys, ...longTerm].map((key) => key.kid).concat(removed), 'a kid');
  differ(keys.map((key) => key.secret.toString('hex')), 'a secret');
  differ(longTerm.map((key) => key.secret.toString('hex')), 'a long-term secret');
  let lookup = null;
  if (doc.lookup !== null) {
    members(doc.lookup, open.wrapped ? 'wrapped' : 'secret');
    lookup = open(doc.lookup.wrapped ?? doc.lookup.secret, 'lookup');
  }
  const revokedBefore = doc.revoked_before === null ? 0 : ringTime(doc.revoked_before) || badRing('revoked before 1970');
  const earliest = revokedBefore && revokedBefore + doc.schedule.skew;

  const { announce, keep, skew } = doc.schedule;
  const successions = keys.filter((key) => !key.disabled || key.disabledAt >= key.activatesAt).map((key) => key.activatesAt)
    .concat(doc.tombstones.map((t) => [t.sealed, ringTime(t.activates_at)]).filter(([sealed]) => sealed).map(([, at]) => at))
    .sort((a, b) => a - b);
  for (const key of keys) {
    key.retiresAt = successions.find((date) => date > key.activatesAt) ?? null;
    key.expiresAt = key.retiresAt === null ? null : key.retiresAt + announce + keep + 2 * skew;
  }
  return { keys, longTerm, removed: new Set(removed), revokedBefore: earliest, skew, announce, lookup, ring: doc.ring };
}

function secretOf(text) {
  return typeof text === 'string' ? secretBytes(text) : badRing('not a secret');
}

function unwrap(text, name, keks, doc, now) {
  if (typeof text !== 'string') badRing('not a wrapped secret');
  const context = { purpose: 'ring-secret', realm: doc.ring, name: [name] };
  const { payload } = openToken({ ...keks, announce: 900 }, tokenBytes(text), context, now);
  return payload.length === 32 ? checkSecret(payload) : badRing('a secret of another length');
}
