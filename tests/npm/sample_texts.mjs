// Seeded random texts that reach every branch of the LLaMA-3 expression. Left out are code points younger than Unicode 14,
// whose properties the engines' tables may not know yet.
const RANGES = {
  ascii: [[0x20, 0x7e]],
  latin: [[0xa1, 0x24f], [0x1e00, 0x1eff]],
  greekAndCyrillic: [[0x391, 0x3a1], [0x3a3, 0x3ff], [0x400, 0x52f]],
  hebrewAndArabic: [[0x5d0, 0x5ea], [0x620, 0x6d3], [0x660, 0x669]],
  indic: [[0x904, 0x939], [0x93e, 0x94d], [0x966, 0x96f], [0xe01, 0xe3a], [0xe40, 0xe5b]],
  cjk: [[0x3041, 0x3096], [0x30a1, 0x30fa], [0x4e00, 0x9fa5], [0xac00, 0xd7a3], [0x3000, 0x303f], [0xff01, 0xff5e]],
  rareCjk: [[0x3400, 0x4db5], [0x20000, 0x2a6d6]],
  marks: [[0x300, 0x36f], [0x20d0, 0x20f0], [0xfe00, 0xfe0f]],
  emoji: [[0x1f300, 0x1f64f], [0x1f680, 0x1f6c5], [0x1f900, 0x1f93a], [0x2600, 0x27bf], [0x1f1e6, 0x1f1ff], [0x200d, 0x200d]],
  symbols: [[0x2010, 0x2027], [0x2030, 0x205e], [0x2070, 0x2071], [0x20a0, 0x20bf], [0x2190, 0x23f3], [0x2500, 0x25ff]],
  mathLetters: [[0x1d400, 0x1d454], [0x1d7ce, 0x1d7ff], [0x2160, 0x2188], [0x2460, 0x249b], [0xb2, 0xb3], [0xbc, 0xbe]],
  digits: [[0x30, 0x39]],
  spaces: [[0x09, 0x0d], [0x20, 0x20], [0x20, 0x20], [0x20, 0x20], [0xa0, 0xa0], [0x1680, 0x1680], [0x2000, 0x200a],
    [0x2028, 0x2029], [0x202f, 0x202f], [0x205f, 0x205f], [0x3000, 0x3000]],
  newlines: [[0x0a, 0x0a], [0x0d, 0x0d], [0x20, 0x20]],
  controls: [[0x00, 0x1f], [0x7f, 0x9f], [0xfef5, 0xfeff], [0x180e, 0x180e], [0x200b, 0x200f], [0xfffd, 0xfffd]],
};

const WORDS = ('the of and to in is that for was with as his they at be this from have or by one had not but what all were when we '
  + 'there can an your which their said if do will each about how up out them then she many some so these would other into has '
  + 'tokenization antidisestablishmentarianism Straßenbahnhaltestelle naïve café señor Ελληνικά Привет мир שלום مرحبا नमस्ते สวัสดี '
  + '日本語 テスト 中文字符 한국어 HTTPServer camelCase snake_case SHOUTING e.g. i.e. U.S.A. 3.14159 1,000,000 0x7fff 2024-05-17 10:30').split(' ');
const CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "'x", "''", "'", "’s", "'\u017f", "'\u017fx"];
const CODE = ['for (int i = 0; i < n; i++) {\n', '    return x;\n', '}\n\n', 'def f(self, *args):\n', '\tif a == b:\r\n', '#include <stdio.h>\n',
  '// comment\n', 'std::vector<std::pair<int, float>>', '"quoted \\"text\\""', 'a[i]->b.c()', '&&', '||', '!=', '===', '=>', '{{ x }}', '</div>\n', '  ',
  'SELECT * FROM t WHERE id = 42;', '$HOME/.cache', 'https://example.org/a?b=c&d=%20', '\\frac{1}{2}', '```\n'];
const SPECIALS = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>', '<|eom_id|>', '<|python_tag|>',
  '<|reserved_special_token_0|>', '<|reserved_special_token_10|>', '<|reserved_special_token_247|>', '<|finetune_right_pad_id|>'];
const ALMOST_SPECIALS = ['<|', '|>', '<|eot_id|', '<|eot_id |>', '<|reserved_special_token_|>', '<|unknown|>', '<<|', '<|reserved_special_token_2'];

function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function sampleTexts(count, seed) {
  const random = mulberry32(seed);
  const below = (n) => Math.floor(random() * n);
  const pick = (list) => list[below(list.length)];
  const character = (ranges) => {
    const [first, last] = pick(ranges);
    return String.fromCodePoint(first + below(last - first + 1));
  };
  const names = Object.keys(RANGES);
  const many = (n, make) => Array.from({ length: n }, make).join('');
  const run = (name, longest) => many(1 + below(longest), () => character(RANGES[name]));
  const repeated = () => { const c = character(RANGES[pick(names)]); return c.repeat(1 + below(60)); };
  const sentence = () => many(1 + below(12), () => pick(['', ' ', ' ', ' ', '  ']) + pick(WORDS) + pick(['', '', '', ...CONTRACTIONS, ',', '.', '!?']));
  const part = () => pick([
    sentence, sentence, repeated,
    () => run(pick(names), 12), () => run(pick(names), 12), () => run('spaces', 6), () => run('newlines', 5), () => run('digits', 14),
    () => run('ascii', 30), () => many(1 + below(4), () => pick(CODE)), () => pick(CONTRACTIONS), () => pick(SPECIALS), () => pick(ALMOST_SPECIALS),
    () => character(RANGES.ascii) + run('marks', 3),
  ])();
  const texts = [];
  while (texts.length < count) {
    const mixed = below(3) === 0;
    texts.push(mixed ? many(1 + below(40), () => character(RANGES[pick(names)])) : many(1 + below(6), part));
  }
  return texts;
}
