// A real OpenID provider for tests: node oidc.mjs PORT REDIRECT_URL. Its development pages accept any login; the login
// is the account, and its e-mail address too. Addresses that begin with "unverified" are not verified.
import { Provider } from "oidc-provider";

const [port, redirect] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: "portal", client_secret: "a-secret:with+signs", redirect_uris: [redirect],
    application_type: "web", token_endpoint_auth_method: "client_secret_basic",
  }],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  pkce: { required: () => true },
  findAccount: (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, email: id, email_verified: !id.startsWith("unverified") }),
  }),
  cookies: { keys: ["for tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
