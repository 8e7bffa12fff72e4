// Passkeys: ask the browser to make one or to sign with one, and put the answer into the form.
//
// form[data-passkey-create]       its options are in the attribute; its button makes a passkey.
// button[data-passkey="sign-in"]  asks its form's data-begin for options, signs, and submits the form.
// button[data-passkey="confirm"]  the same, and fills the field `passkey` of its form, which the user then submits.

const REMEMBERED = "passkey";

function bytes(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
}

function text(buffer) {
  if (!buffer) return undefined;
  return btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function decoded(options) {
  const listed = (list) => list?.map((one) => ({ ...one, id: bytes(one.id) }));
  return {
    ...options,
    challenge: bytes(options.challenge),
    ...(options.user && { user: { ...options.user, id: bytes(options.user.id) } }),
    ...(options.allowCredentials && { allowCredentials: listed(options.allowCredentials) }),
    ...(options.excludeCredentials && { excludeCredentials: listed(options.excludeCredentials) }),
  };
}

function encoded(credential) {
  const { response } = credential;
  return JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response: {
      clientDataJSON: text(response.clientDataJSON),
      attestationObject: text(response.attestationObject),
      authenticatorData: text(response.authenticatorData),
      signature: text(response.signature),
      userHandle: text(response.userHandle),
      transports: response.getTransports?.(),
    },
  });
}

function remember() {
  try { localStorage.setItem(REMEMBERED, "yes"); } catch { /* a browser that keeps nothing */ }
}

function isRemembered() {
  try { return localStorage.getItem(REMEMBERED) === "yes"; } catch { return false; }
}

function complain(form, error) {
  const place = form.querySelector("[data-passkey-error]") ?? document.querySelector("[data-passkey-error]");
  place.textContent = error?.name === "SecurityError" ? place.dataset.elsewhere : place.dataset.failed;
  place.hidden = false;
}

async function sign(form, address, more = {}) {
  const fields = new URLSearchParams();
  for (const name of ["csrf", "step"]) {
    if (form.elements[name]) fields.set(name, form.elements[name].value);
  }
  const response = await fetch(address, { method: "POST", body: fields, signal: more.signal });
  if (!response.ok) throw new Error(String(response.status));
  const publicKey = decoded(await response.json());
  const credential = await navigator.credentials.get({ publicKey, ...more });
  remember();
  return encoded(credential);
}

for (const form of document.querySelectorAll("form[data-passkey-create]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const publicKey = decoded(JSON.parse(form.dataset.passkeyCreate));
      form.elements.credential.value = encoded(await navigator.credentials.create({ publicKey }));
    } catch (error) {
      complain(form, error);
      return;
    }
    remember();
    form.submit();
  });
}

// One request at a time: the one that waits in the autofill of the e-mail field ends when the button is pressed.
let waiting = new AbortController();

for (const button of window.PublicKeyCredential ? document.querySelectorAll("button[data-passkey]") : []) {
  const { form } = button;
  button.hidden = false;
  form.hidden = false;
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    waiting.abort();
    try {
      const answer = await sign(form, button.dataset.begin);
      if (button.dataset.passkey === "sign-in") {
        form.elements.credential.value = answer;
        form.submit();
        return;
      }
      form.elements.passkey.value = answer;
      for (const field of form.querySelectorAll("[type=password], [autocomplete=one-time-code]")) field.required = false;
      button.textContent = button.dataset.done;
      button.disabled = true;
    } catch (error) {
      complain(form, error);
    }
  });
}

// Browsers in which a passkey was used before offer it in the autofill of the e-mail field.
const offered = document.querySelector('button[data-passkey="sign-in"][data-autofill]');
if (offered && isRemembered() && (await window.PublicKeyCredential?.isConditionalMediationAvailable?.())) {
  waiting = new AbortController();
  try {
    const answer = await sign(offered.form, offered.dataset.begin, { mediation: "conditional", signal: waiting.signal });
    offered.form.elements.credential.value = answer;
    offered.form.submit();
  } catch (error) {
    if (error?.name !== "AbortError") console.info("no passkey in the autofill:", error?.name);
  }
}
