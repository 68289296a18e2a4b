// What the decoder gives, described as in the vectors.

import { isDeepStrictEqual } from 'node:util';

/** A value as the JSON of the vectors. */
export function describe(value) {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'bigint') return { int: `${value}` };
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    return { float: bytes.toString('hex') };
  }
  if (Buffer.isBuffer(value)) return { bytes: value.toString('hex') };
  if (Array.isArray(value)) return { list: value.map(describe) };
  switch (value.type) {
    case 'tuple': return { tuple: value.items.map(describe) };
    case 'set': return { set: value.members.map(describe) };
    case 'dict': return { dict: value.entries.map((pair) => pair.map(describe)) };
    case 'datetime': return { datetime: [`${value.microseconds}`, value.offset, value.fold] };
    case 'timedelta': return { timedelta: `${value.microseconds}` };
    case 'date': return { date: value.days };
    default: return { [value.type]: value.text };
  }
}

// The members of a set are described in any order.
function sorted(description) {
  if (description === null || typeof description !== 'object') return description;
  if (Array.isArray(description)) return description.map(sorted);
  const [[type, content]] = Object.entries(description);
  if (type !== 'set') return { [type]: sorted(content) };
  return { set: content.map((member) => JSON.stringify(sorted(member))).sort() };
}

/** Whether a value is what a description says. */
export function sameValue(value, description) {
  return isDeepStrictEqual(sorted(describe(value)), sorted(description));
}

const object = (map, change) => Object.fromEntries([...map].map(([name, value]) => [name, change(value)]));
const hex = (bytes) => bytes.toString('hex');

/** A record as in the vectors. */
export function describeRecord(record) {
  const { overflow, terms } = record;
  return {
    id: hex(record.id), subject: record.subject, created_at: record.createdAt, expires_at: record.expiresAt,
    generation: record.generation, parts: object(record.parts, hex),
    overflow: overflow && {
      set_id: hex(overflow.setId), count: overflow.count, digest: hex(overflow.digest), names: overflow.names,
    },
    spilled: object(record.spilled, Number), left: object(record.orphaned, Number),
    terms: terms && { persistent: terms.persistent, idle: terms.idle, has_own_end: terms.hasOwnEnd },
    fields: object(record.fields, hex),
  };
}

/** What a row of `sealedstate.revoked` says, as the vectors describe it. */
export function describeRevoked(found) {
  if (typeof found === 'string') return [found === 'ended' ? 'revoked' : 'logged out'];
  const bytes = [found.id, found.subject, found.replacedSubject].map((each) => each.toString('hex'));
  return ['replaced', found.replacedAt, found.expiresAt, ...bytes];
}
