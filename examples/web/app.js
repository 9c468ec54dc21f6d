// The page: sound in (file or microphone), 16 kHz mono by the browser, to worker.js and back, players,
// pictures and a download.

import { chinese, words } from "./words.js";

const RATE = 16000; // Hz
const LIMIT = 600; // s
const LARGEST = 500; // MB
const $ = (id) => document.getElementById(id);

const url = new URL("./worker.js", import.meta.url);
url.search = location.search; // ?device=wasm or webgpu, ?threads=1
const worker = new Worker(url, { type: "module" });

let job = 0; // counts; whatever comes from an earlier one is dropped
let name = ""; // of the recording
let remark = ""; // about it, said at the end
let noisy; // its waveform
let pictures = {}; // id of a player -> {levels, columns, bins, image}
let recorder = null;

// What goes wrong by the input, in words for people.
class Problem extends Error {}

// ---- sound in ------------------------------------------------------------------------------------

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
  $("file").value = ""; // the same file can be chosen again
});
for (const type of ["dragover", "dragleave", "drop"]) {
  // The whole page takes it: beside the frame, a browser would open the file in place of the page.
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
  });
}
document.addEventListener("drop", ({ dataTransfer }) => {
  const [file, another] = dataTransfer.files;
  if (file) take(file, file.name, another ? words.onlyFirst : "");
});
$("example").addEventListener("click", async () => {
  const answer = await fetch("vendor/noisy_speech.wav").catch(() => null);
  if (answer?.ok) take(await answer.blob(), "noisy_speech.wav");
  else fail(words.noExample);
});
$("record").addEventListener("click", () => (recorder ? stopRecording() : record()));
$("cancel").addEventListener("click", () => {
  cancel();
  $("status").textContent = words.cancelled;
  $("file").focus();
});

// Enhance a file or what else is a Blob, and show it.
async function take(blob, title, said = "") {
  cancel();
  clear();
  const id = job;
  [name, remark] = [title, said];
  $("busy").hidden = false;
  $("progress").removeAttribute("value");
  $("status").textContent = words.reading(title);
  try {
    const waveform = await decode(blob, title);
    if (id !== job) return;
    noisy = waveform;
    $("status").textContent = words.loading;
    worker.postMessage({ id, waveform });
  } catch (error) {
    if (id !== job) return;
    fail(error instanceof Problem ? error.message : words.broken(title));
  }
}

// Drop the job or the recording under way.
function cancel() {
  stopRecording();
  worker.postMessage({ id: job, cancel: true });
  job += 1;
  $("busy").hidden = true;
}

function clear() {
  for (const id of ["before", "after"]) {
    URL.revokeObjectURL($(id).src);
    $(id).removeAttribute("src");
    $(id).load();
  }
  noisy = undefined;
  pictures = {};
  $("result").hidden = $("error").hidden = true;
  $("status").textContent = "";
}

function fail(text) {
  cancel();
  clear();
  $("error").textContent = text;
  $("error").hidden = false;
}

// Float32Array (samples,) at 16 kHz, the mean of the channels.
async function decode(blob, title) {
  if (blob.size > LARGEST * 1e6) throw new Problem(words.tooLarge(title, Math.ceil(blob.size / 1e6)));
  const stated = await duration(blob); // before an hour is decoded
  if (stated > LIMIT) throw new Problem(words.tooLong(title, time(Math.ceil(stated))));
  const context = new OfflineAudioContext(1, 1, RATE); // to its rate the decoder resamples
  const audio = await context.decodeAudioData(await blob.arrayBuffer());
  if (!audio.length) throw new Problem(words.empty(title));
  if (audio.duration > LIMIT) throw new Problem(words.tooLong(title, time(Math.ceil(audio.duration))));
  const waveform = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) waveform[i] += samples[i] / audio.numberOfChannels;
  }
  if (!waveform.every(Number.isFinite)) throw new Problem(words.notFinite(title));
  return waveform;
}

// What the file says of its length, in s; 0 where it doesn't.
function duration(blob) {
  return new Promise((resolve) => {
    const audio = new Audio();
    const finish = () => {
      const seconds = audio.duration;
      URL.revokeObjectURL(audio.src);
      audio.removeAttribute("src");
      audio.load();
      resolve(Number.isFinite(seconds) ? seconds : 0);
    };
    const late = setTimeout(finish, 3000);
    audio.onloadedmetadata = audio.onerror = () => {
      audio.onloadedmetadata = audio.onerror = null;
      clearTimeout(late);
      finish();
    };
    audio.preload = "metadata";
    audio.src = URL.createObjectURL(blob);
  });
}

function stopRecording() {
  if (recorder?.state === "recording") recorder.stop();
}

async function record() {
  if (!navigator.mediaDevices || !window.MediaRecorder) return fail(words.noMicrophone);
  $("record").disabled = true;
  let stream;
  try {
    // As it is: the browser's own suppression would leave nothing to hear.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    return fail(error.name === "NotAllowedError" ? words.denied : words.noMicrophone);
  } finally {
    $("record").disabled = false;
  }
  cancel();
  clear();
  worker.postMessage({ load: true }); // ready when the recording is
  const pieces = [];
  const mine = (recorder = new MediaRecorder(stream, { audioBitsPerSecond: 256000 }));
  const id = job;
  const started = performance.now();
  const show = () => {
    const seconds = (performance.now() - started) / 1000;
    $("status").textContent = words.recording(time(seconds));
    if (seconds > LIMIT - 1) stopRecording();
  };
  const ticking = setInterval(show, 250);
  mine.ondataavailable = ({ data }) => pieces.push(data);
  mine.onstop = () => {
    clearInterval(ticking);
    for (const track of stream.getTracks()) track.stop();
    recorder = null;
    $("record").textContent = words.record;
    $("record").setAttribute("aria-pressed", "false");
    if (id === job) take(new Blob(pieces, { type: mine.mimeType }), words.recordingName);
  };
  mine.start();
  show();
  $("record").textContent = words.stop;
  $("record").setAttribute("aria-pressed", "true");
}

// ---- sound out -----------------------------------------------------------------------------------

worker.onmessage = ({ data }) => {
  if (data.id !== job) return;
  if (data.error) {
    fail(words.failed(data.error));
  } else if (data.enhanced) {
    show(data);
  } else {
    $("progress").value = data.done / data.samples;
    $("status").textContent = words.enhancing(time(data.done / RATE), time(data.samples / RATE));
  }
};
worker.onerror = (event) => fail(words.failed(event.message || "worker.js"));

function show({ enhanced, before, after, seconds, device }) {
  cancel();
  const length = noisy.length / RATE;
  const by = device.gpu ? words.byGpu : words.byThreads(device.threads);
  const figures = [time(length), seconds.toFixed(1), (length / seconds).toFixed(1)];
  $("status").textContent = words.done(name, ...figures, by);
  if (remark) $("status").textContent += `. ${remark}`;
  if (!device.gpu && !device.isolated) $("status").textContent += `. ${words.notIsolated}`;
  $("before").src = URL.createObjectURL(wav(noisy));
  $("after").src = $("download").href = URL.createObjectURL(wav(enhanced));
  $("download").download = `${name.replace(/\.[^.]*$/, "")}_enhanced.wav`;
  pictures = { before: { ...before, length }, after: { ...after, length } };
  $("result").hidden = false;
  draw();
}

// A WAV file of 16 bits.
function wav(x) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * x.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt()));
  text(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * x.length, true);
  text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // channels
  bytes.setUint32(24, RATE, true);
  bytes.setUint32(28, 2 * RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  text(36, "data");
  bytes.setUint32(40, 2 * x.length, true);
  for (let i = 0; i < x.length; i++) {
    bytes.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * x[i]))), true);
  }
  return new Blob([bytes], { type: "audio/wav" });
}

// 75 -> "1:15"
function time(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// ---- pictures ------------------------------------------------------------------------------------

const AXIS = 20; // px, for the times below
const HIGHEST = RATE / 2000; // kHz
// From silence to the loudest: red, green, blue.
const COLOURS = [[10, 10, 26], [52, 21, 92], [132, 34, 107], [209, 64, 74], [247, 139, 52], [252, 228, 148]];

function draw() {
  for (const [id, picture] of Object.entries(pictures)) {
    const canvas = $(`picture-${id}`);
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    picture.image ??= image(picture);
    context.drawImage(picture.image, 0, 0, width, height - AXIS);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 4;
    context.textBaseline = "middle";
    for (const kHz of [2, 4, 6]) {
      const y = (1 - kHz / HIGHEST) * (height - AXIS);
      context.fillRect(0, y - 0.5, 6, 1);
      context.fillText(`${kHz} kHz`, 10, y);
    }
    context.shadowBlur = 0;
    context.fillStyle = getComputedStyle(document.body).color;
    context.textBaseline = "bottom";
    const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120].find((s) => (width * s) / picture.length > 60) ?? 300;
    for (let t = 0; t < picture.length; t += step) {
      const x = (t / picture.length) * width;
      const label = step < 1 ? `${t.toFixed(1)} s` : time(t);
      if (x + context.measureText(label).width + 4 > width) break;
      context.fillRect(x, height - AXIS, 1, 5);
      context.fillText(label, x + 4, height);
    }
  }
}

// A canvas of one point for each level.
function image({ levels, columns, bins }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, bins];
  const context = canvas.getContext("2d");
  const points = context.createImageData(columns, bins);
  for (let column = 0; column < columns; column++) {
    for (let bin = 0; bin < bins; bin++) {
      const place = (levels[column * bins + bin] / 255) * (COLOURS.length - 1);
      const below = Math.min(COLOURS.length - 2, Math.floor(place));
      const point = 4 * ((bins - 1 - bin) * columns + column);
      for (let c = 0; c < 3; c++) {
        const [a, b] = [COLOURS[below][c], COLOURS[below + 1][c]];
        points.data[point + c] = a + (place - below) * (b - a);
      }
      points.data[point + 3] = 255;
    }
  }
  context.putImageData(points, 0, 0);
  return canvas;
}

for (const [id, other] of [["before", "after"], ["after", "before"]]) {
  const player = $(id);
  const canvas = $(`picture-${id}`);
  const playhead = canvas.nextElementSibling;
  const move = () => {
    playhead.hidden = !player.currentTime;
    playhead.style.left = `${(100 * player.currentTime) / (player.duration || 1)}%`;
    if (!player.paused) requestAnimationFrame(move);
  };
  player.addEventListener("play", () => {
    if (!$(other).paused) {
      player.currentTime = $(other).currentTime; // the same moment, for comparing
      $(other).pause();
    }
    move();
  });
  for (const type of ["seeked", "emptied", "pause"]) player.addEventListener(type, move);
  canvas.addEventListener("click", (event) => {
    if (player.duration) player.currentTime = (event.offsetX / canvas.clientWidth) * player.duration;
  });
}
new ResizeObserver(draw).observe($("result"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// ---- words ---------------------------------------------------------------------------------------

document.documentElement.lang = chinese ? "zh-CN" : "en";
document.title = `ZipEnhancer: ${words.title}`;
for (const element of document.querySelectorAll("[data-text]")) {
  element.textContent = words[element.dataset.text];
}
for (const id of ["before", "after"]) {
  $(id).setAttribute("aria-label", words[id]);
  $(`picture-${id}`).setAttribute("aria-label", words[id === "before" ? "pictureBefore" : "pictureAfter"]);
}
if (!navigator.mediaDevices || !window.MediaRecorder) {
  $("record").disabled = true;
  $("record").title = words.noMicrophone;
}
$("no-script").hidden = true;
$("drop").hidden = false;
