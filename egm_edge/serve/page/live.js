// Live mode: the camera's frames go to the server's tracker as fast as it takes them; the model is asked about the newest one
// whenever it is free; between two answers the tracker's box is shown.

import { ask, refusal, withKey } from "./ask.js";
import { drawBoxes } from "./answer.js";
import { $, say } from "./dom.js";
import { drawn } from "./picture.js";

const SIDE = 640;
const PAUSE_MS = 40; // at most 25 frames a second
const STATES = { GROUNDED: "the model's box", PROPAGATED: "the tracker's box", LOST: "lost; waiting for the model" };

export class Live {
  constructor(video, question) {
    Object.assign(this, { video, question, running: false, frame: null, answer: null, asked: "", track: 0, rate: 0 });
    this.session = crypto.getRandomValues(new Uint32Array(2)).join("-");
  }

  async start() {
    this.running = true;
    this.abort = new AbortController();
    try {
      await Promise.race([this.follow(), this.ground()]);
    } catch (error) {
      if (this.running) say(error.message || "The server did not answer.", true);
    } finally {
      this.stop();
    }
  }

  stop() {
    this.running = false;
    this.abort?.abort();
  }

  async follow() {
    let last = performance.now();
    while (this.running) {
      const { videoWidth: w, videoHeight: h } = this.video;
      const scale = Math.min(1, SIDE / Math.max(w, h));
      const stamp = Math.round(performance.now());
      const blob = await drawn(this.video, w, h, scale, 0.8);
      const answer = this.answer;
      this.answer = null;
      const start = answer?.egm.box ? `&box=${answer.egm.box.join(",")}&box_stamp=${answer.stamp}` : "";
      const { signal } = this.abort;
      const headers = { "Content-Type": "image/jpeg", ...withKey($("key").value) };
      const path = `/v1/track?session=${this.session}&stamp=${stamp}&track=${this.track}${start}`;
      const response = await fetch(path, { method: "POST", headers, body: blob, signal });
      if (!response.ok) throw await refusal(response);
      this.show(await response.json(), [Math.round(w * scale), Math.round(h * scale)], w / Math.round(w * scale));
      this.frame = { blob, stamp };
      const now = performance.now();
      const rate = 1000 / (now - last);
      this.rate += (this.rate ? 0.1 : 1) * (rate - this.rate);
      last = now;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  async ground() {
    while (this.running) {
      const { sentence, task } = this.question();
      const frame = this.frame;
      if (!sentence || !frame) {
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        continue;
      }
      const started = performance.now();
      const egm = await ask({ blob: frame.blob, sentence, task, key: $("key").value, signal: this.abort.signal });
      if (sentence !== this.question().sentence) continue; // the answer to a question that stands there no more
      if (sentence !== this.asked || !egm.box) this.track++; // what was followed until now is forgotten
      this.asked = sentence;
      this.answer = { egm, stamp: frame.stamp };
      this.answers = (this.answers ?? 0) + 1;
      this.latency = performance.now() - started;
      say(egm.box ? `Found: ${sentence}` : "Not in this picture.");
    }
  }

  show({ boxes, track_ms: trackMs }, wh, toOriginal) {
    if (!this.running) return;
    const [tracked] = this.asked && this.asked === this.question().sentence ? boxes : [];
    const shown = tracked && tracked.state !== "LOST";
    drawBoxes(wh, shown ? [{ box: tracked.box, label: this.asked, kind: "box" }] : []);
    const where = shown ? tracked.box.map((v) => (v * toOriginal).toFixed(0)).join(", ") : "none";
    $("live-facts").textContent = [
      `answers ${this.answers ?? 0}, the last in ${Math.round(this.latency ?? 0)} ms`,
      `box ${where}` + (tracked ? `: ${STATES[tracked.state]}, ${Math.round(tracked.age_ms)} ms after its answer's picture` : ""),
      `${this.rate.toFixed(0)} frames a second, tracker ${trackMs.toFixed(1)} ms`,
    ].join("; ");
  }
}
