// A text, spoken.
import { call, field, showCost, studio } from "./studio.js";

let address = "";

function request() {
  return {
    model: field("model").value,
    input: field("input").value,
    voice: field("voice").value,
    response_format: field("format").value,
    speed: Number(field("speed").value || 1),
  };
}

async function ask(signal) {
  const body = request();
  const answer = await call("/api/texttospeech/", body, signal);
  const sound = await answer.blob();
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(sound);
  field("player").src = address;
  field("file").href = address;
  field("file").download = `speech.${body.response_format}`;
  field("nothing").hidden = true;
  field("heard").hidden = false;
  await showCost(answer.headers.get("x-generation-id"));
}

studio("speech", request, ask);
