// Validate the C2PA manifest of a PNG with an implementation of its own, and print the result as a line of JSON.
import { readFile } from "node:fs/promises";
import { PNG } from "@trustnxt/c2pa-ts/asset";
import { SuperBox } from "@trustnxt/c2pa-ts/jumbf";
import { ManifestStore, ValidationResult } from "@trustnxt/c2pa-ts/manifest";

const asset = new PNG(await readFile(process.argv[2]));
let result;
try {
  result = await ManifestStore.read(SuperBox.fromBuffer(asset.getManifestJUMBF())).validate(asset);
} catch (error) {
  result = ValidationResult.fromError(error);
}
const entries = result.statusEntries.map(({ code, success }) => [code, success]);
console.log(JSON.stringify({ isValid: result.isValid, entries }));
