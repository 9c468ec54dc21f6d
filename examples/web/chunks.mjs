// The chunk grid and the offset, as in Python (modelscope_zipenhancer/enhance/): of the page and of examples/node.

export const RATE = 16000; // Hz
// Enhanced at once up to WINDOW, padded up to 2 s; longer recordings in chunks of WINDOW, each cross-faded into
// the next over 0.5 s.
export const WINDOW = 6 * RATE;
const MINIMUM = 2 * RATE;
const FADE = RATE / 2;
const HOP = WINDOW - FADE;
const OFFSET = 0.25; // of a chunk's RMS: a smaller mean stays

// Enhance Float32Array (samples,) of any length by run(chunk). Returns as many samples at the same level,
// or null as soon as goOn(samples done) isn't true.
export async function enhance(run, x, goOn = () => true) {
  const samples = x.length;
  if (samples <= WINDOW) {
    const padded = new Float32Array(Math.max(samples, MINIMUM));
    padded.set(x);
    const out = (await run(padded)).slice(0, samples);
    return (await goOn(samples)) ? out : null;
  }
  const out = new Float32Array(samples);
  // Add a chunk at `start`, of which only what lies behind `from` counts: faded in over `fade` samples, and
  // out over the last FADE, unless it is the last one.
  const add = (chunk, start, from, fade, last) => {
    for (let i = from; i < chunk.length; i++) {
      let weight = 1;
      if (i - from < fade) weight = (i - from + 0.5) / FADE;
      else if (!last && i >= HOP) weight = (WINDOW - i - 0.5) / FADE;
      out[start + i] += weight * chunk[i];
    }
  };
  let start = 0;
  for (; start + WINDOW <= samples; start += HOP) {
    add(await run(x.subarray(start, start + WINDOW)), start, 0, start ? FADE : 0, false);
    if (!(await goOn(start + HOP))) return null;
  }
  // The last chunk ends where the recording ends; at `start` the one before begins to fade.
  const end = samples - WINDOW;
  add(await run(x.subarray(end)), end, start - end, Math.min(FADE, samples - start), true);
  return (await goOn(samples)) ? out : null;
}

// The waveform without its mean if that counts, since the network takes an offset for level; zeros at
// either end are no part of the recording.
export function centred(x) {
  let first = 0, end = x.length;
  while (end && !x[end - 1]) end--;
  while (first < end && !x[first]) first++;
  let sum = 0, energy = 0;
  for (let i = first; i < end; i++) {
    sum += x[i];
    energy += x[i] * x[i];
  }
  const samples = end - first;
  if (sum ** 2 <= OFFSET ** 2 * energy * samples) return x;
  const mean = sum / samples;
  return x.map((value, i) => (first <= i && i < end ? value - mean : value));
}
