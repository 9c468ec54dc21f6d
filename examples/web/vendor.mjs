// Copies what the page loads into vendor/, so that this folder without node_modules/ is the whole site.
// Run by `npm install`; by hand: npm run vendor.
import { copyFileSync, mkdirSync } from "node:fs";
import { basename } from "node:path";

const here = (path) => new URL(path, import.meta.url);
const dist = "node_modules/onnxruntime-web/dist/";

mkdirSync(here("vendor/"), { recursive: true });
for (const path of [
  dist + "ort.wasm.bundle.min.mjs", // the processor: threads and SIMD
  dist + "ort-wasm-simd-threaded.wasm",
  dist + "ort.webgpu.bundle.min.mjs", // the graphics card; loaded only where WebGPU is
  dist + "ort-wasm-simd-threaded.asyncify.wasm",
  "../../modelscope_zipenhancer/models/tiny/model.onnx",
  "../noisy_speech.wav",
]) {
  copyFileSync(here(path), here("vendor/" + basename(path)));
}
