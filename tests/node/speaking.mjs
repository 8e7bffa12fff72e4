// What the Node programs share: abilities by name, one line of JSON for each.
export const { BASE_URL, KEY, POOR_KEY, NONCE } = process.env;
export const QUESTION = [{ role: "user", content: "Which planet has the most moons?" }];
export const TEXTS = ["Saturn", "moons", "Saturn"];
export const BUSY = [{ role: "user", content: `busy ${NONCE}` }];
export const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const WEATHER = {
  type: "function",
  function: { name: "get_weather", description: "The weather of a city", parameters: CITY },
};
export const PLANET = {
  type: "object",
  properties: { planet: { type: "string" } },
  required: ["planet"],
  additionalProperties: false,
};

const CASES = {
  401: { key: "sk-mt-wrong" },
  402: { key: POOR_KEY },
  404: { model: "quik" },
  400: { limit: 1e6 },
  429: { model: "limited" },
};

// What `name(error)` says of the error behind each refusal; `ask({key, model, limit})` sends one request.
export async function refusals(ask, name) {
  const found = {};
  for (const [status, given] of Object.entries(CASES)) {
    try {
      await ask({ key: KEY, model: "quick", ...given });
      found[status] = "no error";
    } catch (error) {
      found[status] = name(error);
    }
  }
  return found;
}

export async function main(abilities) {
  for (const name of process.argv.slice(2)) {
    let result;
    try {
      result = await abilities[name]();
    } catch (error) {
      console.error(error);
      result = { failed: String(error) };
    }
    console.log(JSON.stringify({ [name]: result }));
  }
}
