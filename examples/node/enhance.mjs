// Enhance a WAV file by ONNX Runtime: `npm install` in this folder (`npm install --ignore-scripts` where
// api.nuget.org can't be reached: it is for GPUs), then
//
//     node enhance.mjs ../../modelscope_zipenhancer/models/tiny/model.onnx noisy.wav clean.wav
//
// The recording has 16 kHz, mono or more channels, which are enhanced one by one; levels stay.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import ort from "onnxruntime-node";
import wavefile from "wavefile";
import { RATE, centred, enhance } from "../web/chunks.mjs";

const [model, source, target] = process.argv.slice(2);
if (!target) fail("usage: node enhance.mjs MODEL.onnx NOISY.wav CLEAN.wav");

const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 }); // no news of an optional input

async function run(chunk) {
  const waveform = new ort.Tensor("float32", centred(chunk), [1, chunk.length]);
  return (await session.run({ waveform })).enhanced.data;
}

const noisy = opened(source);
if (noisy.fmt.sampleRate !== RATE) fail(`${source} has ${noisy.fmt.sampleRate} Hz: ${RATE} are needed`);
if (noisy.bitDepth === "8a") noisy.fromALaw();
if (noisy.bitDepth === "8m") noisy.fromMuLaw();
if (!/^(8|16|24|32|32f|64)$/.test(noisy.bitDepth)) fail(`${source} is coded: PCM, A-law or mu-law is needed`);
noisy.toBitDepth("32f");
const samples = noisy.getSamples(false, Float32Array);
const channels = noisy.fmt.numChannels === 1 ? [samples] : samples;
if (!channels.every((x) => x.length && x.every(Number.isFinite))) fail(`${source} is empty, or has NaN in it`);

const enhanced = [];
for (const x of channels) enhanced.push(await enhance(run, x));

const clean = new wavefile.WaveFile();
clean.fromScratch(channels.length, RATE, "16", enhanced.map(pcm16));
writeFileSync(`${target}.part`, clean.toBuffer());
renameSync(`${target}.part`, target);

function opened(path) {
  try {
    return new wavefile.WaveFile(readFileSync(path));
  } catch (error) {
    return fail(`${path} can't be read as a WAV file: ${error.message}`);
  }
}

function pcm16(x) {
  return Int16Array.from(x, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));
}

function fail(words) {
  console.error(words);
  process.exit(2);
}
