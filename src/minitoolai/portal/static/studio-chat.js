// A conversation, answered as it is written.
import { call, field, refusal, showCost, studio } from "./studio.js";

const talk = field("talk");
let messages = [];
let picture = null;

function asked() {
  const text = field("message").value;
  const content = picture ? [{ type: "text", text }, { type: "image_url", image_url: { url: picture } }] : text;
  return { role: "user", content };
}

function request() {
  const developer = field("developer").value.trim();
  const first = developer ? [{ role: "developer", content: developer }] : [];
  const body = { model: field("model").value, messages: [...first, ...messages, asked()] };
  if (field("temperature").value) body.temperature = Number(field("temperature").value);
  if (field("limit").value) body.max_completion_tokens = Number(field("limit").value);
  return { ...body, stream: true };
}

// Text goes in as text: what a model or a person writes is never read as markup.
function line(role, name, text) {
  const item = document.createElement("div");
  const who = document.createElement("strong");
  const words = document.createElement("span");
  item.className = role;
  who.textContent = name;
  words.textContent = text;
  item.append(who, words);
  talk.append(item);
  return [item, words];
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

async function ask(signal) {
  const body = request();
  const question = asked();
  const [item] = line("user", talk.dataset.you, field("message").value);
  if (picture) {
    const image = document.createElement("img");
    image.src = picture;
    image.alt = "";
    item.append(image);
  }
  let answer;
  try {
    answer = await call("/api/chat-completions/", body, signal);
  } catch (fault) {
    // Nothing was said, so nothing is lost: the message is still in its field.
    item.remove();
    throw fault;
  }
  field("message").value = "";
  const name = answer.headers.get("x-generation-id");
  talk.setAttribute("aria-busy", "true");
  const [, words] = line("assistant", body.model, "");
  let text = "";
  try {
    for await (const event of events(answer)) {
      if (event.error) throw refusal(event.error);
      text += event.choices[0]?.delta?.content ?? "";
      words.textContent = text;
    }
  } finally {
    talk.removeAttribute("aria-busy");
    if (text) messages.push(question, { role: "assistant", content: text });
    field("picture").value = "";
    picture = null;
    // What was stopped is charged a moment later.
    setTimeout(() => showCost(name), signal.aborted ? 1500 : 0);
  }
}

field("picture").addEventListener("change", () => {
  const [file] = field("picture").files;
  picture = null;
  if (!file || file.size > 10 * 1024 * 1024) { field("picture").value = ""; return; }
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    picture = reader.result;
    field("ask").dispatchEvent(new Event("input"));
  });
  reader.readAsDataURL(file);
});

field("anew").addEventListener("click", () => {
  messages = [];
  talk.replaceChildren();
  field("message").focus();
  field("ask").dispatchEvent(new Event("input"));
});

studio("chat", request, ask);
