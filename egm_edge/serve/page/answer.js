// A Grounding, shown: boxes over the picture, facts, thought, and the time of each stage.

import { $, say } from "./dom.js";

const STAGES = [
  ["decode_image_ms", "read the picture"], ["preprocess_ms", "cut into patches"], ["vision_ms", "see"],
  ["prefill_ms", "read the sentence"], ["think_ms", "think"], ["answer_ms", "answer"], ["parse_ms", "read the box"],
];
const OUTCOMES = {
  FOUND: "Found", NOT_FOUND: "Not in this picture", AMBIGUOUS: "More than one thing fits", TIMED_OUT: "Out of time",
  CANCELLED: "Stopped", UNPARSABLE: "The model's answer holds no box",
};

export function clearAnswer() {
  for (const id of ["overlay", "facts", "thought-part", "stages", "share"]) $(id).toggleAttribute("hidden", true);
  $("overlay").replaceChildren();
  $("thought").textContent = "";
}

export function showThought(text) {
  const end = text.indexOf("</think>");
  $("thought").textContent = (end < 0 ? text : text.slice(0, end)).replace("<think>", "").trim();
  $("thought-part").hidden = !$("thought").textContent;
}

export const outcomeWords = (egm) => OUTCOMES[egm.outcome] ?? egm.outcome;

// egm: its boxes in pixels of what was sent. scale: from there to the original.
export function showAnswer(egm, scale) {
  say(egm.box ? `${outcomeWords(egm)}: ${egm.expression}` : `${outcomeWords(egm)}.`);
  drawBoxes(egm.image_wh, shownBoxes(egm));
  const pixels = (box) => box.map((v) => (v * scale).toFixed(1)).join(", ");
  $("box").textContent = egm.box ? pixels(egm.box) : "none";
  const others = otherCandidates(egm);
  $("candidates").textContent = others.map((c) => `${c.label || "?"}: ${pixels(c.box)}`).join("; ");
  $("candidates-row").hidden = !others.length;
  const known = typeof egm.confidence === "number";
  $("confidence").textContent = known
    ? `${Math.round(egm.confidence * 100)} % that the box is right (IoU of at least 0.5)` : "uncalibrated";
  $("confidence-bar").hidden = !known;
  $("confidence-bar").value = egm.confidence ?? 0;
  $("tokens").textContent = `${egm.tokens.think} thought, ${egm.tokens.completion} in all; ${egm.tokens.image} of the picture`;
  $("facts").hidden = $("share").hidden = false;
  $("thought").textContent = egm.reasoning;
  $("thought-part").hidden = !egm.reasoning;
  fillStages(egm.timings);
}

function otherCandidates(egm) {
  return (egm.candidates ?? []).filter((c) => String(c.box) !== String(egm.box));
}

function shownBoxes(egm) {
  const others = otherCandidates(egm).map((c) => ({ box: c.box, label: c.label, kind: "candidate" }));
  const sure = typeof egm.confidence === "number" ? ` ${Math.round(egm.confidence * 100)} %` : "";
  return egm.box ? [...others, { box: egm.box, label: (egm.label || egm.expression) + sure, kind: "box" }] : others;
}

// boxes: [{box, label, kind}], xyxy in a picture of wh.
export function drawBoxes([w, h], boxes) {
  const svg = $("overlay");
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.toggleAttribute("hidden", !boxes.length);
  const pixel = w / (svg.getBoundingClientRect().width || w); // one CSS pixel, in the picture's
  svg.replaceChildren(...boxes.flatMap(({ box: [x1, y1, x2, y2], label, kind }) => {
    const size = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    const text = element("text", { x: x1 + 4 * pixel, y: Math.max(y1 - 7 * pixel, 15 * pixel), "font-size": 14 * pixel, class: `label ${kind}-label` });
    text.textContent = label;
    return [element("rect", { ...size, class: `halo ${kind}-halo` }), element("rect", { ...size, class: kind }), text];
  }));
  const main = boxes.at(-1);
  if (!main) return;
  const [x1, y1, x2, y2] = main.box;
  const place = `${Math.round((50 * (x1 + x2)) / w)} % from the left, ${Math.round((50 * (y1 + y2)) / h)} % from the top`;
  svg.setAttribute("aria-label", `box round ${main.label}, its middle ${place}`);
}

function element(name, values) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
  return made;
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
