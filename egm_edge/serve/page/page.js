// The page of `egm serve`: picture or camera in, box, thought, confidence and stage times out. Talks to its own origin only.

import { ask, Refused, withKey } from "./ask.js";
import { clearAnswer, showAnswer, showThought } from "./answer.js";
import { $, say } from "./dom.js";
import { isRemembered, remember } from "./history.js";
import { Live } from "./live.js";
import { drawn, preparePicture } from "./picture.js";
import { asCurl, asPython } from "./share.js";

// turn: grows with every picture and every question, so that nothing that was asked before it is shown after it.
const state = { picture: null, stream: null, live: null, running: null, turn: 0, shown: null };

function newTurn() {
  state.running?.abort();
  state.running = null;
  busy(false);
  clearAnswer();
  state.shown = null;
  return ++state.turn;
}

// Pictures

async function usePicture(blob, name) {
  const turn = newTurn();
  let picture;
  try {
    picture = await preparePicture(blob, name);
  } catch {
    if (turn === state.turn) say("This file is no picture that the browser can show.", true);
    return false;
  }
  if (turn !== state.turn) return false; // another one was picked meanwhile
  await showPicture(picture);
  return true;
}

async function showPicture(picture) {
  const old = state.picture;
  state.picture = picture;
  $("picture").src = picture.url;
  $("picture").alt = picture.name;
  show("picture");
  await $("picture").decode().catch(() => {});
  if (old && old !== picture && !isRemembered(old)) URL.revokeObjectURL(old.url);
}

function show(what) {
  $("picture").hidden = what !== "picture";
  $("video").hidden = what !== "video";
  $("nothing").hidden = what !== "nothing";
  $("stage").classList.toggle("empty", what === "nothing");
}

async function offerSamples() {
  const response = await fetch("/samples.json");
  for (const [at, { url, expression }] of (response.ok ? await response.json() : []).entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = expression;
    button.setAttribute("aria-label", `sample picture ${at + 1}: ${expression}`);
    const image = document.createElement("img");
    image.src = url;
    image.alt = "";
    button.append(image);
    button.addEventListener("click", async () => {
      stopCamera();
      $("sentence").value = expression;
      if (await usePicture(await (await fetch(url)).blob(), url.slice(url.lastIndexOf("/") + 1))) await find();
    });
    $("samples").append(button);
  }
}

// Camera

async function startCamera() {
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The camera was not allowed." : "No camera could be opened.", true);
    return false;
  }
  $("video").srcObject = state.stream;
  await $("video").play();
  newTurn();
  show("video");
  $("camera").textContent = "Stop the camera";
  say("Type what to find; the picture of that moment is asked about.");
  return true;
}

function stopCamera() {
  stopLive();
  for (const track of state.stream?.getTracks() ?? []) track.stop();
  state.stream = null;
  $("camera").textContent = "Use the camera";
  if (!$("video").hidden) {
    newTurn();
    show("nothing");
  }
}

async function takeFrame() {
  const { videoWidth: w, videoHeight: h } = $("video");
  return usePicture(await drawn($("video"), w, h, 1), "picture from the camera");
}

async function toggleLive() {
  if (state.live) return stopLive();
  if (!state.stream && !(await startCamera())) return;
  newTurn();
  show("video");
  $("live").setAttribute("aria-pressed", "true");
  $("live-facts").hidden = false;
  if (!question().sentence) say("Type what to follow.");
  state.live = new Live($("video"), question);
  const live = state.live;
  await live.start();
  if (state.live === live) stopLive();
}

function stopLive() {
  if (!state.live) return;
  state.live.stop();
  state.live = null;
  $("live").setAttribute("aria-pressed", "false");
  $("live-facts").hidden = true;
  clearAnswer();
}

// Asking

function question() {
  return { sentence: $("sentence").value.trim(), task: document.querySelector("input[name=task]:checked").value };
}

async function find() {
  const { sentence, task } = question();
  if (!sentence || state.live) return;
  if (state.stream && !$("video").hidden && !(await takeFrame())) return;
  if (!state.picture) {
    say("Pick a picture first.", true);
    $("file").focus();
    return;
  }
  const turn = newTurn(), picture = state.picture, key = $("key").value;
  const current = () => turn === state.turn;
  say("Looking…");
  state.running = new AbortController();
  busy(true);
  try {
    const onText = (text) => {
      if (!current()) return;
      if (text) say("Thinking…");
      showThought(text);
    };
    const egm = await ask({ blob: picture.blob, sentence, task, key, signal: state.running.signal, onText });
    if (!current()) return;
    showEntry({ picture, egm, sentence, task });
    remember(state.shown, async (entry) => {
      stopCamera();
      newTurn();
      $("sentence").value = entry.sentence;
      await showPicture(entry.picture);
      showEntry(entry);
    });
  } catch (error) {
    if (current()) failed(error);
  } finally {
    if (current()) busy(false);
  }
}

function showEntry(entry) {
  state.shown = entry;
  showAnswer(entry.egm, entry.picture.scale);
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  const stopped = error.name === "AbortError";
  say(stopped ? "Stopped." : error.message || "The server did not answer.", !stopped);
}

function busy(yes) {
  $("find").disabled = yes;
  $("stop").hidden = !yes;
  $("answer").setAttribute("aria-busy", String(yes));
  $("stage").classList.toggle("pending", yes);
}

async function share(written) {
  const { picture, sentence, task } = state.shown;
  const text = written({ name: picture.name, type: picture.blob.type, sentence, task, hasKey: Boolean($("key").value) });
  $("code").value = text;
  $("code").hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    $("code").select();
    say("Selected below: copy it from there.");
  }
}

// Wiring

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("find").disabled) find();
});
$("stop").addEventListener("click", () => state.running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.live ? stopLive() : state.running?.abort();
});
$("as-curl").addEventListener("click", () => share(asCurl));
$("as-python").addEventListener("click", () => share(asPython));
$("live").addEventListener("click", toggleLive);
for (const id of ["file", "photo"]) {
  $(id).addEventListener("change", async () => {
    const [file] = $(id).files;
    if (!file) return;
    stopCamera();
    if (await usePicture(file, file.name)) say("Type what to find.");
  });
}
$("camera").addEventListener("click", async () => {
  if (state.stream && $("video").hidden) {
    newTurn();
    show("video");
  } else if (state.stream) stopCamera();
  else await startCamera();
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
  if (file) usePicture(file, file.name || "pasted picture");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) usePicture(file, file.name);
  });
}
if (!navigator.mediaDevices?.getUserMedia) {
  $("camera").hidden = $("live").hidden = true;
  $("photo").disabled = false;
  for (const id of ["photo", "photo-label"]) $(id).hidden = false;
}
offerSamples().catch(() => {});
fetch("/v1/models", { headers: withKey($("key").value) })
  .then((response) => (response.ok ? response.json() : null))
  .then((models) => { if (models) $("model").textContent = models.data.map((model) => model.id).join(", "); })
  .catch(() => {});
