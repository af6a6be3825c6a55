// One question to this page's own server, streamed. Knows nothing of the page.

import { dataUrl } from "./picture.js";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Resolves to the Grounding (`egm` of the last chunk); onText is told the text so far.
export async function ask({ blob, sentence, task, key, signal, onText }) {
  const url = await dataUrl(blob);
  const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: sentence }];
  const body = { model: "egm", messages: [{ role: "user", content }], task, stream: true };
  const headers = { "Content-Type": "application/json", ...withKey(key) };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  let text = "", egm = null;
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Error(chunk.error.message);
    text += chunk.choices?.[0]?.delta?.content ?? "";
    onText?.(text);
    egm = chunk.egm ?? egm;
  }
  if (!egm) throw new Error("The server broke off.");
  return egm;
}

export function withKey(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export async function refusal(response) {
  const told = await response.json().then((value) => value.error?.message, () => "") || response.statusText;
  const wait = response.headers.get("Retry-After");
  const busy = `The server is busy; try again in ${wait ?? "a few"} s.`;
  const words = { 401: "This server asks for its API key.", 429: busy };
  return new Refused(response.status, words[response.status] ?? told);
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
