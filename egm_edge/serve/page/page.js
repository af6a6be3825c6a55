// The page of `egm serve`: picture or camera in, box, thought, confidence and stage times out. Talks to its own origin only.

const MAX_BYTES = 14e6; // base64 makes a third more of it, under the server's 20 MiB
const MAX_SIDE = 4096;
const SENT_AS_IS = ["image/jpeg", "image/png", "image/webp", "image/bmp"];
const STAGES = [
  ["decode_image_ms", "read the picture"], ["preprocess_ms", "cut into patches"], ["vision_ms", "see"],
  ["prefill_ms", "read the sentence"], ["think_ms", "think"], ["answer_ms", "answer"], ["parse_ms", "read the box"],
];

const $ = (id) => document.getElementById(id);
const state = { picture: null, stream: null, running: null };

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// Pictures

async function usePicture(blob, name) {
  try {
    const ready = await prepared(blob);
    const url = URL.createObjectURL(ready);
    $("picture").src = url;
    await $("picture").decode();
    if (state.picture) URL.revokeObjectURL(state.picture.url);
    state.picture = { blob: ready, url, name };
  } catch {
    say("This file is no picture that the browser can show.", true);
    return false;
  }
  $("picture").alt = name;
  clearAnswer();
  show("picture");
  return true;
}

async function prepared(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
    const { naturalWidth: w, naturalHeight: h } = image;
    if (SENT_AS_IS.includes(blob.type) && blob.size <= MAX_BYTES && w * h <= 30e6) return blob;
    return await drawn(image, w, h);
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

function drawn(source, w, h) {
  const scale = Math.min(1, MAX_SIDE / Math.max(w, h));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(w * scale));
  canvas.height = Math.max(1, Math.round(h * scale));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("no blob"))), "image/jpeg", 0.92));
}

function show(what) {
  $("picture").hidden = what !== "picture";
  $("video").hidden = what !== "video";
  $("nothing").hidden = true;
  $("stage").classList.remove("empty");
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// Camera

async function startCamera() {
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The camera was not allowed." : "No camera could be opened.", true);
    return;
  }
  $("video").srcObject = state.stream;
  await $("video").play();
  clearAnswer();
  show("video");
  $("camera").textContent = "Stop the camera";
  say("Type what to find; the picture of that moment is asked about.");
}

function stopCamera() {
  for (const track of state.stream?.getTracks() ?? []) track.stop();
  state.stream = null;
  $("camera").textContent = "Use the camera";
  if (!$("video").hidden) {
    $("video").hidden = true;
    $("nothing").hidden = false;
  }
}

async function takeFrame() {
  const { videoWidth: w, videoHeight: h } = $("video");
  const blob = await drawn($("video"), w, h);
  return usePicture(blob, "picture from the camera");
}

// Asking

async function ask() {
  const sentence = $("sentence").value.trim();
  if (!sentence) return;
  if (state.stream && !$("video").hidden && !(await takeFrame())) return;
  if (!state.picture) {
    say("Sampler a picture first.", true);
    $("file").focus();
    return;
  }
  clearAnswer();
  say("Looking…");
  state.running = new AbortController();
  busy(true);
  try {
    await grounded(sentence, await dataUrl(state.picture.blob), state.running.signal);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : error.message || "The server did not answer.", error.name !== "AbortError");
  } finally {
    busy(false);
  }
}

async function grounded(sentence, url, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: sentence }];
  const task = document.querySelector("input[name=task]:checked").value;
  const body = { model: "egm", messages: [{ role: "user", content }], task, stream: true };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error(await refusal(response));
  let thought = "";
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content ?? "";
    if (piece && !thought) say("Thinking…");
    thought += piece;
    const end = thought.indexOf("</think>");
    $("thought").textContent = (end < 0 ? thought : thought.slice(0, end)).replace("<think>", "").trim();
    $("thought-part").hidden = !$("thought").textContent;
    if (chunk.egm) answer(chunk.egm);
  }
}

async function refusal(response) {
  const told = await response.json().then((value) => value.error?.message, () => "") || response.statusText;
  if (response.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
    return "This server asks for its API key.";
  }
  const wait = response.headers.get("Retry-After");
  return response.status === 429 ? `The server is busy; try again in ${wait ?? "a few"} s.` : told;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// Showing

const OUTCOMES = {
  FOUND: "Found", NOT_FOUND: "Not in this picture", AMBIGUOUS: "More than one thing fits", TIMED_OUT: "Out of time",
  CANCELLED: "Stopped", UNPARSABLE: "The model's answer holds no box",
};

function answer(egm) {
  const found = OUTCOMES[egm.outcome] ?? egm.outcome;
  say(egm.box ? `${found}: ${egm.expression}` : `${found}.`);
  drawBox(egm);
  $("box").textContent = egm.box ? egm.box.map((v) => v.toFixed(1)).join(", ") : "none";
  $("confidence").textContent = egm.confidence === null
    ? "uncalibrated" : `${Math.round(egm.confidence * 100)} % that the box is right (IoU of at least 0.5)`;
  $("tokens").textContent = `${egm.tokens.think} thought, ${egm.tokens.completion} in all; ${egm.tokens.image} of the picture`
    + (egm.cut ? `; cut short: ${egm.cut.replaceAll("_", " ")}` : "");
  $("facts").hidden = false;
  if (egm.reasoning) $("thought").textContent = egm.reasoning;
  $("thought-part").hidden = !egm.reasoning;
  fillStages(egm.timings);
}

function drawBox(egm) {
  const svg = $("overlay");
  const [w, h] = egm.image_wh;
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  if (egm.box) {
    const [x1, y1, x2, y2] = egm.box;
    for (const name of ["halo", "box"]) {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const values = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: name };
      for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
      svg.append(rect);
    }
    const place = `${Math.round((100 * (x1 + x2)) / 2 / w)} % from the left, ${Math.round((100 * (y1 + y2)) / 2 / h)} % from the top`;
    svg.setAttribute("aria-label", `box round ${egm.expression}, its middle ${place}`);
  }
  svg.toggleAttribute("hidden", !egm.box);
}

function fillStages(timings) {
  const rows = STAGES.map(([key, name]) => row(name, timings[key], timings.total_ms));
  if (timings.frame_reused) rows[2].cells[0].textContent += " (kept from before)";
  const sum = row("in all", timings.total_ms, 0);
  sum.className = "sum";
  $("stages").tBodies[0].replaceChildren(...rows, sum);
  $("stages").hidden = false;
}

function row(name, ms, whole) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const number = document.createElement("td");
  number.className = "number";
  number.textContent = ms.toFixed(ms < 10 ? 1 : 0);
  const bar = document.createElement("td");
  bar.className = "bar-column";
  bar.setAttribute("aria-hidden", "true");
  if (whole) {
    const filled = document.createElement("span");
    filled.className = "bar";
    filled.style.width = `${Math.min(100, (100 * ms) / whole)}%`;
    bar.append(filled);
  }
  line.append(head, number, bar);
  return line;
}

function clearAnswer() {
  for (const id of ["overlay", "facts", "thought-part", "stages"]) $(id).toggleAttribute("hidden", true);
  $("thought").textContent = "";
}

function busy(yes) {
  $("find").disabled = yes;
  $("stop").hidden = !yes;
  $("answer").setAttribute("aria-busy", String(yes));
}

// Wiring

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("find").disabled) ask();
});
$("stop").addEventListener("click", () => state.running?.abort());
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
    clearAnswer();
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
    if (kind === "drop" && event.dataTransfer.files[0]) usePicture(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });
}
if (!navigator.mediaDevices?.getUserMedia) {
  $("camera").hidden = true;
  $("photo").disabled = false;
  for (const id of ["photo", "photo-label"]) $(id).hidden = false;
}
fetch("/v1/models", $("key").value ? { headers: { Authorization: `Bearer ${$("key").value}` } } : {})
  .then((response) => (response.ok ? response.json() : null))
  .then((models) => { if (models) $("model").textContent = models.data.map((model) => model.id).join(", "); })
  .catch(() => {});
