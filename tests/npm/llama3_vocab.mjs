// Writes what tokenizer_parity compares, from the LLaMA-3 vocabulary inside the npm package llama3-tokenizer-js:
//     node llama3_vocab.mjs <folder with node_modules> <output folder>
//   llama3.gguf                 the tokenizer's keys, no tensors
//   huggingface.cases           texts, and the ids that @huggingface/tokenizers gives with the same vocabulary
//   llama3-tokenizer-js.cases   the same texts, and the ids of that package; without those that it splits by JavaScript's
//                               white space and case rules in place of Unicode's (see model/FORMAT.md)
// A .cases file: u32 count; then for each text u32 bytes, UTF-8, u32 ids, i32 each. Little-endian.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { sampleTexts } from './sample_texts.mjs';

const SPECIALS_BEGIN = 128000;
const SPLIT_DIFFERENTLY_BY_JAVASCRIPT = /[\uFEFF\u0085]|'\u017F/u;
const LLAMA3_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

async function importFrom(folder, name) {
  try {
    return await import(pathToFileURL(createRequire(path.resolve(folder, 'any.js')).resolve(name)).href);
  } catch (error) {
    console.error(`${name} in ${folder}/node_modules: ${error.message.split('\n')[0]}: scripts/setup.sh installs it`);
    process.exit(2);
  }
}

// Little-endian values, collected.
class Writer {
  parts = [];
  u32(value) { const b = Buffer.alloc(4); b.writeUInt32LE(value); this.parts.push(b); }
  u64(value) { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(value)); this.parts.push(b); }
  i32s(values) { const b = Buffer.alloc(4 * values.length); values.forEach((v, i) => b.writeInt32LE(v, 4 * i)); this.parts.push(b); }
  bytes(buffer) { this.parts.push(buffer); }
  result() { return Buffer.concat(this.parts); }
}

const U32 = 4, I32 = 5, STRING = 8, ARRAY = 9;

function ggufOfKeys(keys) {
  const writer = new Writer();
  const string = (text) => { const b = Buffer.from(text, 'utf8'); writer.u64(b.length); writer.bytes(b); };
  const scalar = { [U32]: (v) => writer.u32(v), [I32]: (v) => writer.i32s([v]), [STRING]: string };
  writer.bytes(Buffer.from('GGUF'));
  writer.u32(3);
  writer.u64(0); // tensors
  writer.u64(keys.length);
  for (const [name, type, value] of keys) {
    string(name);
    if (!Array.isArray(value)) {
      writer.u32(type);
      scalar[type](value);
      continue;
    }
    writer.u32(ARRAY);
    writer.u32(type);
    writer.u64(value.length);
    value.forEach((item) => scalar[type](item));
  }
  const file = writer.result();
  return Buffer.concat([file, Buffer.alloc((32 - (file.length % 32)) % 32)]);
}

function casesFile(texts, encode) {
  const writer = new Writer();
  writer.u32(texts.length);
  for (const text of texts) {
    const bytes = Buffer.from(text, 'utf8');
    const ids = encode(text);
    writer.u32(bytes.length);
    writer.bytes(bytes);
    writer.u32(ids.length);
    writer.i32s(ids);
  }
  return writer.result();
}

// Every token that is text by itself: all of them must be found again, also those that no merges lead to.
function tokenTexts(tokenizer) {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const byteOf = byteOfCharacter();
  const texts = [];
  for (const token of tokenizer.vocabById.slice(0, SPECIALS_BEGIN)) {
    try {
      texts.push(strict.decode(Uint8Array.from([...token], (c) => byteOf.get(c))));
    } catch {
      // part of a character
    }
  }
  return texts;
}

function byteOfCharacter() {
  const map = new Map();
  let other = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    map.set(String.fromCharCode(printable ? byte : other++), byte);
  }
  return map;
}

function huggingFaceTokenizer(Tokenizer, tokens, merges) {
  const model = {
    type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
    fuse_unk: false, byte_fallback: false, ignore_merges: true,
    vocab: Object.fromEntries(tokens.slice(0, SPECIALS_BEGIN).map((token, id) => [token, id])),
    merges: merges.map((merge) => merge.split(' ')),
  };
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const split = { type: 'Split', pattern: { Regex: LLAMA3_SPLIT }, behavior: 'Isolated', invert: false };
  const added = tokens.slice(SPECIALS_BEGIN).map((content, i) => ({
    id: SPECIALS_BEGIN + i, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true,
  }));
  return new Tokenizer({
    version: '1.0', truncation: null, padding: null, added_tokens: added, normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: [split, byteLevel] },
    post_processor: null, decoder: byteLevel, model,
  }, { clean_up_tokenization_spaces: false });
}

const [modules, output] = process.argv.slice(2);
if (!output) {
  console.error('usage: node llama3_vocab.mjs <folder with node_modules> <output folder>');
  process.exit(2);
}
const { default: llama3 } = await importFrom(modules, 'llama3-tokenizer-js');
const { Tokenizer } = (await importFrom(modules, '@huggingface/tokenizers')).default; // resolved as CommonJS

const tokens = llama3.vocabById;
const merges = [...llama3.merges.keys()]; // in the order of their ranks
fs.mkdirSync(output, { recursive: true });
fs.writeFileSync(path.join(output, 'llama3.gguf'), ggufOfKeys([
  ['general.architecture', STRING, 'bitnet-b1.58'],
  ['tokenizer.ggml.model', STRING, 'gpt2'],
  ['tokenizer.ggml.pre', STRING, 'llama-bpe'],
  ['tokenizer.ggml.tokens', STRING, tokens],
  ['tokenizer.ggml.token_type', I32, tokens.map((_, id) => (id < SPECIALS_BEGIN ? 1 : 3))],
  ['tokenizer.ggml.merges', STRING, merges],
  ['tokenizer.ggml.bos_token_id', U32, tokens.indexOf('<|begin_of_text|>')],
  ['tokenizer.ggml.eos_token_id', U32, tokens.indexOf('<|end_of_text|>')],
  ['tokenizer.ggml.eot_token_id', U32, tokens.indexOf('<|eot_id|>')],
]));

const texts = [...sampleTexts(12000, 1), ...tokenTexts(llama3)];
const huggingFace = huggingFaceTokenizer(Tokenizer, tokens, merges);
fs.writeFileSync(path.join(output, 'llama3-tokenizer-js.cases'),
  casesFile(texts.filter((text) => !SPLIT_DIFFERENTLY_BY_JAVASCRIPT.test(text)), (text) => llama3.encode(text, { bos: false, eos: false })));
fs.writeFileSync(path.join(output, 'huggingface.cases'),
  casesFile(texts, (text) => huggingFace.encode(text, { add_special_tokens: false }).ids));
console.log(`${tokens.length} tokens, ${merges.length} merges, ${texts.length} texts in ${output}`);
