// node unbrotli.mjs FROM: unpacks a file that brotli packed, to the standard output. For `make chromium`.
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";

await pipeline(createReadStream(process.argv[2]), createBrotliDecompress(), process.stdout);
