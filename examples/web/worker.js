// The network, away from the page: a waveform in, progress, the enhanced waveform and pictures of both out.
//
// in:  {id, waveform: Float32Array at 16 kHz} or {id, cancel: true}; {load: true} to be ready early
// out: {id, done, samples}, then {id, enhanced, before, after, seconds, device}, or {id, error}

import { RATE, WINDOW, centred, enhance } from "./chunks.mjs";

const vendor = new URL("./vendor/", import.meta.url).href;
const options = new URL(self.location.href).searchParams; // device=wasm or webgpu, threads=1
const TRY_GPU = 60 * RATE; // samples: below, the processor is done before shaders are compiled
let processor, graphics; // promises of {run, device}
let wanted = null; // the id of the job that is still wanted
let queue = Promise.resolve(); // one job at a time

self.onmessage = ({ data }) => {
  if (data.load) {
    choose(0).catch(() => {}); // said when a job needs it
  } else if (data.cancel) {
    if (wanted === data.id) wanted = null;
  } else {
    wanted = data.id;
    queue = queue.then(() => job(data)).catch((error) => self.postMessage({ id: data.id, error: words(error) }));
  }
};

async function job({ id, waveform }) {
  if (wanted !== id) return;
  const { run, device } = await choose(waveform.length);
  self.postMessage({ id, done: 0, samples: waveform.length });
  const started = performance.now();
  const goOn = async (done) => {
    self.postMessage({ id, done, samples: waveform.length });
    await new Promise((resolve) => setTimeout(resolve)); // lets a cancellation in
    return wanted === id;
  };
  let enhanced;
  try {
    enhanced = await enhance(run, waveform, goOn);
  } catch (error) {
    if (!device.gpu) throw error;
    console.warn("WebGPU gave up, the processor begins again:", error);
    graphics = Promise.resolve(null);
    return job({ id, waveform });
  }
  if (!enhanced) return;
  const seconds = (performance.now() - started) / 1000;
  const spectra = [waveform, enhanced].map(spectrogram);
  const top = spectra[0].decibels.reduce((a, b) => Math.max(a, b), -Infinity);
  const [before, after] = spectra.map((spectrum) => picture(spectrum, top));
  self.postMessage({ id, enhanced, before, after, seconds, device }, [
    enhanced.buffer, before.levels.buffer, after.levels.buffer,
  ]);
}

// ---- ONNX Runtime --------------------------------------------------------------------------------

// The processor or, where it pays, the graphics card.
async function choose(samples) {
  processor ??= open("wasm");
  processor.catch(() => (processor = undefined)); // so that the next job tries again
  if (options.get("device") === "wasm") return processor;
  if (options.get("device") !== "webgpu" && samples < TRY_GPU) return processor;
  graphics ??= Promise.race([tryGpu(), new Promise((resolve) => setTimeout(resolve, 30000, null))]);
  return (await graphics) ?? processor;
}

// The graphics card, or null unless it computes what the processor does, and sooner: drivers differ.
async function tryGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    const software = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
    if (!adapter || (software && options.get("device") !== "webgpu")) return null;
    const gpu = await open("webgpu");
    const noise = Float32Array.from({ length: WINDOW }, () => 0.2 * Math.random() - 0.1);
    const reference = await timed(await processor, noise);
    await gpu.run(noise); // compiles
    const got = await timed(gpu, noise);
    let signal = 0, error = 0;
    reference.enhanced.forEach((x, i) => ((signal += x * x), (error += (x - got.enhanced[i]) ** 2)));
    const right = error < 1e-5 * signal; // 50 dB
    const sooner = got.seconds < reference.seconds || options.get("device") === "webgpu";
    if (right && sooner) return gpu;
    console.info(`WebGPU: ${got.seconds} s, error/signal ${error / signal}; the processor: ${reference.seconds} s`);
  } catch (error) {
    console.warn("WebGPU doesn't run this model, the processor does:", error);
  }
  return null;
}

async function timed(backend, x) {
  const started = performance.now();
  const enhanced = await backend.run(x);
  return { enhanced, seconds: (performance.now() - started) / 1000 };
}

async function open(provider) {
  const ort = await import(`${vendor}ort.${provider}.bundle.min.mjs`);
  ort.env.logLevel = "error"; // a warning about the optional input is no news
  // Threads need SharedArrayBuffer, and that a cross-origin isolated page: README.md.
  const cores = Math.min(8, navigator.hardwareConcurrency || 1);
  const threads = self.crossOriginIsolated ? Number(options.get("threads")) || cores : 1;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(`${vendor}model.onnx`, {
    executionProviders: [provider],
    logSeverityLevel: 3,
    // Threads that wait in a loop for each other take twice the time where other programs run, too.
    extra: { session: { intra_op: { allow_spinning: "0" } } },
  });
  const run = async (chunk) => {
    const waveform = new ort.Tensor("float32", centred(chunk), [1, chunk.length]);
    const { enhanced } = await session.run({ waveform });
    const result = enhanced.data.slice();
    enhanced.dispose();
    if (!result.every(Number.isFinite)) throw new Error("it gave values that aren't numbers");
    return result;
  };
  return { run, device: { gpu: provider === "webgpu", threads, isolated: self.crossOriginIsolated } };
}

function words(error) {
  return String(error?.message ?? error).split("\n")[0];
}

// ---- spectrograms --------------------------------------------------------------------------------

const N_FFT = 512, COLUMNS = 1200, RANGE = 80; // dB below the loudest point of the noisy recording

// Power in dB, (columns, bins): at most COLUMNS, each the mean of up to 4 frames.
function spectrogram(x) {
  const bins = N_FFT / 2;
  const hop = Math.max(128, Math.ceil(x.length / COLUMNS));
  const columns = Math.ceil(x.length / hop);
  const frames = Math.min(4, Math.ceil(hop / 128));
  const decibels = new Float32Array(columns * bins);
  const power = new Float64Array(bins), re = new Float64Array(N_FFT), im = new Float64Array(N_FFT);
  for (let column = 0; column < columns; column++) {
    power.fill(1e-12);
    for (let frame = 0; frame < frames; frame++) {
      const middle = Math.round((column + (frame + 0.5) / frames) * hop);
      for (let i = 0; i < N_FFT; i++) {
        re[i] = (x[middle - N_FFT / 2 + i] ?? 0) * HANN[i];
        im[i] = 0;
      }
      fft(re, im);
      for (let k = 0; k < bins; k++) power[k] += (re[k] ** 2 + im[k] ** 2) / frames;
    }
    for (let k = 0; k < bins; k++) decibels[column * bins + k] = 10 * Math.log10(power[k]);
  }
  return { decibels, columns, bins };
}

// Levels from 0 to 255: RANGE dB, `top` the loudest.
function picture({ decibels, columns, bins }, top) {
  const levels = new Uint8ClampedArray(decibels.length);
  if (top > -110) decibels.forEach((x, i) => (levels[i] = 255 * (1 + (x - top) / RANGE)));
  return { levels, columns, bins };
}

const HANN = Float64Array.from({ length: N_FFT }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / N_FFT));

// The discrete Fourier transform in place, radix 2.
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k++) {
      const c = Math.cos((-2 * Math.PI * k) / size), s = Math.sin((-2 * Math.PI * k) / size);
      for (let a = k; a < n; a += size) {
        const b = a + half;
        const r = re[b] * c - im[b] * s, i = re[b] * s + im[b] * c;
        re[b] = re[a] - r;
        im[b] = im[a] - i;
        re[a] += r;
        im[a] += i;
      }
    }
  }
}
