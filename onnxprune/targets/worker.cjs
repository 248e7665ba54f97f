// worker.py's counterpart for onnxruntime-web in Node: `node worker.cjs ENVIRONMENT FOLDER`, the same job and answer.
"use strict";

const fs = require("fs");
const path = require("path");
const { performance } = require("perf_hooks");

const SCHEMA = 1;
const LOADS = 3;
// As in worker.py.
const LOADS_BUDGET_MS = 3000;
const REWARMED_BELOW_MS = 50;

const [environment, folder] = process.argv.slice(2);

class Failed extends Error {
  constructor(model, stage, error) {
    // The runtime's own exceptions arrive as addresses where it was built without their texts.
    super(typeof error === "number" ? "an exception without a text" : String((error && error.message) || error));
    Object.assign(this, { model, stage });
  }
}

// What the runtime prints; a profile comes out this way.
const printed = [];
for (const channel of ["log", "warn", "error", "info", "debug"]) {
  console[channel] = (...parts) => printed.push(parts.join(" "));
}

function runtime() {
  const packaged = path.join(environment, "node_modules", "onnxruntime-web", "dist");
  const entry = ["ort.node.min.js", "ort-web.node.js"].find((name) => fs.existsSync(path.join(packaged, name)));
  const ort = require(path.join(packaged, entry));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.simd = true;
  return ort;
}

// ---- arrays: .npy members of an uncompressed .npz, and back ----

const KINDS = {
  "<f4": ["float32", Float32Array], "<f8": ["float64", Float64Array], "<f2": ["float16", Uint16Array],
  "<i8": ["int64", BigInt64Array], "<u8": ["uint64", BigUint64Array], "<i4": ["int32", Int32Array],
  "<u4": ["uint32", Uint32Array], "<i2": ["int16", Int16Array], "<u2": ["uint16", Uint16Array],
  "|i1": ["int8", Int8Array], "|u1": ["uint8", Uint8Array], "|b1": ["bool", Uint8Array],
};
const CODES = Object.fromEntries(Object.entries(KINDS).map(([code, [type]]) => [type, code]));

function members(file) {
  const data = fs.readFileSync(file);
  const found = {};
  let end = data.length - 22;
  while (end >= 0 && data.readUInt32LE(end) !== 0x06054b50) end--;
  let at = data.readUInt32LE(end + 16);
  for (let left = data.readUInt16LE(end + 10); left > 0; left--) {
    const size = data.readUInt32LE(at + 20);
    const [name, extra, comment] = [28, 30, 32].map((offset) => data.readUInt16LE(at + offset));
    const start = data.readUInt32LE(at + 42);
    const body = start + 30 + data.readUInt16LE(start + 26) + data.readUInt16LE(start + 28);
    found[data.toString("utf8", at + 46, at + 46 + name)] = data.subarray(body, body + size);
    at += 46 + name + extra + comment;
  }
  return found;
}

function array(data) {
  const long = data[6] > 1;
  const start = (long ? 12 : 10) + (long ? data.readUInt32LE(8) : data.readUInt16LE(8));
  const header = data.toString("latin1", 10, start);
  const code = /'descr': *'([^']*)'/.exec(header)[1];
  const dims = /'shape': *\(([^)]*)\)/.exec(header)[1].split(",").map((size) => size.trim()).filter(Boolean).map(Number);
  if (/'fortran_order': *True/.test(header) && dims.length > 1) throw new Error("an array in Fortran order");
  return { code, dims, bytes: Uint8Array.prototype.slice.call(data, start) };
}

function texts({ code, bytes }) {
  const width = Number(code.slice(2));
  const units = new Uint32Array(bytes.buffer);
  const found = [];
  for (let at = 0; at < units.length; at += width) {
    const own = Array.from(units.subarray(at, at + width)).filter((unit) => unit);
    found.push(String.fromCodePoint(...own));
  }
  return found;
}

function tensor(ort, value) {
  if (value.code[1] === "U") return new ort.Tensor("string", texts(value), value.dims);
  if (!(value.code in KINDS)) throw new Error(`inputs of type ${value.code} cannot be given to onnxruntime-web`);
  const [type, Typed] = KINDS[value.code];
  return new ort.Tensor(type, new Typed(value.bytes.buffer), value.dims);
}

function feedsOf(ort, file) {
  const found = members(file);
  const names = JSON.parse(texts(array(found["names.npy"]))[0]);
  return Object.fromEntries(names.map((name, at) => [name, tensor(ort, array(found[`${at}.npy`]))]));
}

const TABLE = new Uint32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

function checksum(data) {
  let value = 0xffffffff;
  for (const byte of data) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function npy(value) {
  const shape = value.dims.length === 1 ? `${value.dims[0]},` : value.dims.join(", ");
  let header = `{'descr': '${CODES[value.type]}', 'fortran_order': False, 'shape': (${shape}), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n";
  const head = Buffer.alloc(10);
  Buffer.from("\x93NUMPY\x01\x00", "latin1").copy(head);
  head.writeUInt16LE(header.length, 8);
  const data = value.data;
  return Buffer.concat([head, Buffer.from(header, "latin1"), Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}

function saveArchive(file, arrays) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, value] of Object.entries(arrays)) {
    const title = Buffer.from(`${name}.npy`);
    const data = npy(value);
    const shared = Buffer.alloc(26);
    shared.writeUInt16LE(20, 0);
    shared.writeUInt32LE(checksum(data), 10);
    shared.writeUInt32LE(data.length, 14);
    shared.writeUInt32LE(data.length, 18);
    shared.writeUInt16LE(title.length, 22);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00", "latin1"), shared, tail, title]));
    parts.push(Buffer.from("PK\x03\x04", "latin1"), shared, title, data);
    offset += 30 + title.length + data.length;
  }
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(directory.length, 8);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(directory.reduce((sum, entry) => sum + entry.length, 0), 12);
  end.writeUInt32LE(offset, 16);
  fs.writeFileSync(file, Buffer.concat([...parts, ...directory, end]));
}

// ---- the tasks ----

async function open(ort, job, at, extra = {}) {
  try {
    const data = fs.readFileSync(job.models[at]);
    const beside = externalData(job, at);
    return await ort.InferenceSession.create(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), {
      executionProviders: job.providers.map(([name]) => name),
      logSeverityLevel: 4,
      ...(beside.length ? { externalData: beside } : {}),
      ...extra,
    });
  } catch (error) {
    throw new Failed(at, "load", error);
  }
}

function externalData(job, at) {
  const beside = path.dirname(job.models[at]);
  return job.data[at].map((name) => ({ path: name, data: new Uint8Array(fs.readFileSync(path.join(beside, name))) }));
}

async function run(session, feeds, at) {
  try {
    return await session.run(feeds);
  } catch (error) {
    throw new Failed(at, "run", error);
  }
}

async function clocked(action) {
  const before = performance.now();
  await action();
  return performance.now() - before;
}

function order(models, turn) {
  const turns = Array.from({ length: models }, (_, at) => (at + Math.floor(turn / 2)) % models);
  return turn % 2 ? turns.reverse() : turns;
}

async function time(ort, job, feeds) {
  const sessions = [];
  const loads = job.models.map(() => []);
  const begun = performance.now();
  for (let repeat = 0; repeat < LOADS; repeat++) {
    if (repeat && performance.now() - begun > LOADS_BUDGET_MS) break;
    for (let at = 0; at < job.models.length; at++) {
      if (sessions[at]) await sessions[at].release();
      loads[at].push(await clocked(async () => { sessions[at] = await open(ort, job, at); }));
    }
  }
  const fastest = [];
  for (let at = 0; at < sessions.length; at++) {
    const warm = [];
    // Node compiles WebAssembly in steps: the first runs are of another kind.
    for (let repeat = 0; repeat < 5; repeat++) warm.push(await clocked(() => run(sessions[at], feeds[at], at)));
    fastest.push(Math.min(...warm));
  }
  const rewarm = Math.max(...fastest) < REWARMED_BELOW_MS;
  const rounds = [];
  const start = performance.now();
  while (rounds.length < job.max_runs
    && (rounds.length < job.min_runs || performance.now() - start < job.budget_s * 1000)) {
    const taken = new Array(sessions.length);
    for (const at of order(sessions.length, rounds.length)) {
      if (rewarm) await run(sessions[at], feeds[at], at);
      taken[at] = await clocked(() => run(sessions[at], feeds[at], at));
    }
    rounds.push(taken);
  }
  return { loads_ms: loads, rounds_ms: rounds };
}

async function outputs(ort, job, feeds) {
  const names = [];
  for (let at = 0; at < job.models.length; at++) {
    const session = await open(ort, job, at);
    const values = Object.entries(await run(session, feeds[at], at)).filter(([, value]) => value.type in CODES);
    saveArchive(path.join(folder, `outputs-${at}.npz`), Object.fromEntries(values.map(([, value], slot) => [slot, value])));
    names.push(values.map(([name]) => name));
    await session.release();
  }
  return { outputs: names };
}

async function place(ort, job, feeds) {
  const nodes = [];
  for (let at = 0; at < job.models.length; at++) {
    const seenLines = new Set(printedSoFar());
    const session = await open(ort, job, at, { enableProfiling: true });
    await run(session, feeds[at], at);
    session.endProfiling();
    const groups = [];
    const seen = new Set();
    for (const line of printedSoFar()) {
      if (seenLines.has(line)) continue;
      const event = parsed(line);
      if (!event || event.cat !== "Node" || !event.name.endsWith("_kernel_time") || seen.has(event.name)) continue;
      seen.add(event.name);
      const node = [event.args.provider, event.args.op_name, "", event.name.slice(0, -"_kernel_time".length)];
      if (groups.length && groups[groups.length - 1][0][0] === node[0]) groups[groups.length - 1].push(node);
      else groups.push([node]);
    }
    nodes.push(groups);
  }
  return { nodes };
}

// Older builds print through the console, newer ones straight to standard output, which the parent keeps here.
function printedSoFar() {
  return [...printed, ...fs.readFileSync(path.join(folder, "output"), "utf8").split("\n")];
}

function parsed(line) {
  try {
    return JSON.parse(line.trim().replace(/,$/, ""));
  } catch {
    return null;
  }
}

async function main() {
  const ort = runtime();
  const job = JSON.parse(fs.readFileSync(path.join(folder, "job.json"), "utf8"));
  let answer;
  try {
    const feeds = job.models.map((_, at) => feedsOf(ort, path.join(folder, `feeds-${at}.npz`)));
    answer = await { time, run: outputs, place }[job.task](ort, job, feeds);
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    answer = { failed: { model: error.model, stage: error.stage, why: error.message } };
  }
  const part = path.join(folder, "answer.part");
  fs.writeFileSync(part, JSON.stringify({ schema: SCHEMA, ...answer }));
  fs.renameSync(part, path.join(folder, "answer.json"));
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  },
);
