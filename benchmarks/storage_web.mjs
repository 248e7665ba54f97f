// Load and run ONNX files in onnxruntime-web, single-threaded wasm, in alternation: JSON of milliseconds and digests.
//   node storage_web.mjs FOLDER FEEDS.json ROUNDS LEVEL MODEL.onnx [...]
// FOLDER holds node_modules/onnxruntime-web; FEEDS.json lists {name, type, dims, file} of raw little-endian inputs.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, feedsFile, rounds, level, ...models] = process.argv.slice(2);
const resolved = createRequire(path.join(path.resolve(folder), "package.json")).resolve("onnxruntime-web/wasm");
const ort = await import(pathToFileURL(resolved));
const api = ort.InferenceSession ? ort : ort.default;
api.env.wasm.numThreads = 1;
api.env.logLevel = "error";

// A small file's Buffer is a view of a pool: only its own part counts.
const bytes = (name) => {
  const held = readFileSync(name);
  return held.buffer.slice(held.byteOffset, held.byteOffset + held.byteLength);
};
const kinds = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array };
const feeds = {};
for (const { name, type, dims, file } of JSON.parse(readFileSync(feedsFile, "utf8"))) {
  feeds[name] = new api.Tensor(type, new kinds[type](bytes(file)), dims);
}
const sessions = [];
for (const model of models) {
  const data = new Uint8Array(bytes(model));
  const start = performance.now();
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: level };
  const session = await api.InferenceSession.create(data, options);
  sessions.push({ session, load_ms: performance.now() - start, runs_ms: [], digest: "" });
}
for (let round = -2; round < Number(rounds); round += 1) {
  for (let place = 0; place < sessions.length; place += 1) {
    const one = sessions[(((round + place) % sessions.length) + sessions.length) % sessions.length];
    const start = performance.now();
    const outputs = await one.session.run(feeds);
    if (round >= 0) one.runs_ms.push(performance.now() - start);
    const hash = createHash("sha256");
    for (const name of Object.keys(outputs).sort()) {
      const { data } = outputs[name];
      hash.update(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    }
    one.digest = hash.digest("hex");
  }
}
const results = sessions.map(({ load_ms, runs_ms, digest }) => ({ load_ms, runs_ms, digest }));
console.log(JSON.stringify({ version: api.env.versions?.web ?? "", results }));
process.exit(0);
