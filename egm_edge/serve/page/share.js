// The question on the page as a program: curl in a shell, or Python with the openai package.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl({ name, type, sentence, task, hasKey }) {
  const before = `{"model": "egm", "task": "${task}", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:${type};base64,`;
  const after = `"}}, {"type": "text", "text": ${JSON.stringify(sentence)}}]}]}`;
  return [
    `{ printf '%s' ${quoted(before)}; base64 < ${quoted(name)} | tr -d '\\n'; printf '%s' ${quoted(after)}; } |`,
    `curl -s ${location.origin}/v1/chat/completions -H 'Content-Type: application/json'${hasKey ? ' -H "Authorization: Bearer $EGM_API_KEY"' : ""} -d @-`,
  ].join("\n");
}

export function asPython({ name, type, sentence, task, hasKey }) {
  return `import base64, os
import openai

client = openai.OpenAI(base_url="${location.origin}/v1", api_key=${hasKey ? 'os.environ["EGM_API_KEY"]' : '"EMPTY"'})
picture = base64.b64encode(open(${JSON.stringify(name)}, "rb").read()).decode()
answer = client.chat.completions.create(
    model="egm",
    messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"data:${type};base64,{picture}"}},
        {"type": "text", "text": ${JSON.stringify(sentence)}}]}],
    extra_body={"task": "${task}"})
print(answer.egm["outcome"], answer.egm["box"])`;
}
