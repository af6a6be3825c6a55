// What was asked before, newest first; a click brings picture and answer back.

import { $ } from "./dom.js";
import { outcomeWords } from "./answer.js";

const LIMIT = 12;
const entries = [];

export function remember(entry, onChosen) {
  entries.unshift(entry);
  const button = document.createElement("button");
  button.type = "button";
  const thumbnail = document.createElement("img");
  thumbnail.src = entry.picture.url;
  thumbnail.alt = "";
  const words = document.createElement("span");
  words.textContent = `${entry.egm.expression}: ${outcomeWords(entry.egm).toLowerCase()}, ${Math.round(entry.egm.timings.total_ms)} ms`;
  button.append(thumbnail, words);
  button.addEventListener("click", () => onChosen(entry));
  const line = document.createElement("li");
  line.append(button);
  $("history").prepend(line);
  $("history-part").hidden = false;
  if (entries.length > LIMIT) {
    entries.pop();
    $("history").lastChild.remove();
  }
}

export const isRemembered = (picture) => entries.some((entry) => entry.picture === picture);
