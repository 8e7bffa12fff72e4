// What the three parts of the studio share: the key, the request, what it cost, and the same as code.
import { programs } from "./studio-code.js";

const form = document.getElementById("ask");
const error = document.getElementById("error");
const cost = document.getElementById("cost");
const stop = document.getElementById("stop");
const send = document.getElementById("send");
const tongue = document.getElementById("tongue");
const code = document.getElementById("code");
export const said = form.dataset;
export const field = (id) => document.getElementById(id);

// Kept in this variable and nowhere else: no other page can read it, and it is worth nothing after some minutes.
let key = "";
let goodUntil = 0;

async function freshKey() {
  if (Date.now() < goodUntil) return key;
  const fields = new URLSearchParams({ csrf: form.elements.csrf.value });
  const answer = await fetch(form.action, { method: "POST", body: fields });
  if (!answer.headers.get("content-type")?.startsWith("application/json")) throw new Error(said.gone);
  const made = await answer.json();
  if (!made.key) throw new Error(said.failed);
  key = made.key;
  goodUntil = Date.now() + (made.seconds - 60) * 1000;
  return key;
}

export async function call(path, body, signal) {
  const headers = { authorization: `Bearer ${await freshKey()}`, "content-type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (answer.ok) return answer;
  const words = await answer.json().catch(() => ({}));
  throw new Error(words.error?.message ?? words.message ?? said.failed);
}

export async function showCost(name) {
  const headers = { authorization: `Bearer ${await freshKey()}` };
  const answer = await fetch(`/v1/generations/${encodeURIComponent(name)}`, { headers });
  if (!answer.ok) return;
  const made = await answer.json();
  const style = { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 9 };
  cost.textContent = `${said.cost}: ${new Intl.NumberFormat(said.lang, style).format(made.cost)} · ${made.id}`;
}

// Shows the program for what the form says now.
export function showCode(kind, body) {
  code.textContent = programs[tongue.value](kind, window.location.origin, body);
}

// `ask(signal)` does the work; `request()` says what would be sent.
export function studio(kind, request, ask) {
  const refresh = () => showCode(kind, request());
  form.addEventListener("input", refresh);
  tongue.addEventListener("change", refresh);
  refresh();
  let abort = null;
  stop.addEventListener("click", () => abort?.abort());
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (abort) return;
    abort = new AbortController();
    error.hidden = true;
    cost.textContent = "";
    stop.hidden = false;
    send.setAttribute("aria-disabled", "true");
    try {
      await ask(abort.signal);
    } catch (fault) {
      error.textContent = fault.name === "AbortError" ? said.stopped : fault.message;
      error.hidden = false;
    } finally {
      if (document.activeElement === stop) send.focus();
      abort = null;
      stop.hidden = true;
      send.removeAttribute("aria-disabled");
      refresh();
    }
  });
}
