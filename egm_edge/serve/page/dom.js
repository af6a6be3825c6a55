// The two things every part of the page needs.

export const $ = (id) => document.getElementById(id);

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}
