#include "abi/cli/report/style.h"

namespace bitnet::report {

// h0 to h8: a distance of 0, below 1e-6, then a power of ten each, up to 1 and more; hn: not measurable, hx: not
// compared. The numbers in the cells have a contrast of at least 4.5 in both schemes, which a test computes from this
// text.
const char *const theme_css = R"css(
:root { color-scheme: light dark;
  --bg: #ffffff; --panel: #f6f7f9; --line: #d5d9e0; --text: #16191d; --soft: #555d68; --link: #0a58a8;
  --good: #136c35; --good-bg: #e6f4ea; --bad: #a81b1b; --bad-bg: #fdeaea; --odd: #7a4a00; --odd-bg: #fff3dc;
  --h0: #e3ede6; --h0t: #35503f; --h1: #f7f4ec; --h1t: #16191d; --h2: #fdf0c9; --h2t: #16191d; --h3: #fde0a0; --h3t: #16191d;
  --h4: #fbc978; --h4t: #16191d; --h5: #f5a85a; --h5t: #16191d; --h6: #e8793f; --h6t: #16191d; --h7: #c43b2c; --h7t: #ffffff;
  --h8: #8b1526; --h8t: #ffffff; --hn: #4b2067; --hnt: #ffffff; --hx: #ffffff; --hxt: #555d68;
  --s1: #0a58a8; --s2: #b1430a; --s3: #5b2d91; --mark: #16191d; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #14171b; --panel: #1d2127; --line: #3a414b; --text: #e8eaed; --soft: #a9b1bc; --link: #7cb7ff;
  --good: #6fd08c; --good-bg: #14301f; --bad: #ff9389; --bad-bg: #3d1716; --odd: #f2c063; --odd-bg: #372a10;
  --h0: #1d2f25; --h0t: #a7c9b3; --h1: #262a30; --h1t: #e8eaed; --h2: #372f17; --h2t: #f3e9c8; --h3: #4d3d10; --h3t: #f8ecc4;
  --h4: #69500c; --h4t: #ffffff; --h5: #8a5708; --h5t: #ffffff; --h6: #d9772f; --h6t: #14171b; --h7: #f4744f; --h7t: #14171b;
  --h8: #ff9fa0; --h8t: #14171b; --hn: #d6a6ff; --hnt: #14171b; --hx: #14171b; --hxt: #a9b1bc;
  --s1: #7cb7ff; --s2: #ffa261; --s3: #cfa3ff; --mark: #ffffff; } }
svg { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
svg text { fill: var(--text); } svg .soft { fill: var(--soft); } svg .cell { font-size: 11px; text-anchor: middle; }
svg .small { font-size: 9px; } svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .head { font-size: 15px; font-weight: 600; }
svg .bg { fill: var(--bg); } svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--soft); }
svg .dot { fill: var(--mark); stroke: var(--bg); stroke-width: 0.7; } svg .ring { fill: none; stroke: var(--mark); stroke-width: 2.5; }
svg .h0 { fill: var(--h0); } svg .h1 { fill: var(--h1); } svg .h2 { fill: var(--h2); } svg .h3 { fill: var(--h3); }
svg .h4 { fill: var(--h4); } svg .h5 { fill: var(--h5); } svg .h6 { fill: var(--h6); } svg .h7 { fill: var(--h7); }
svg .h8 { fill: var(--h8); } svg .hn { fill: var(--hn); } svg .hx { fill: var(--hx); stroke: var(--line); stroke-dasharray: 2 2; }
svg .h0t { fill: var(--h0t); } svg .h1t { fill: var(--h1t); } svg .h2t { fill: var(--h2t); } svg .h3t { fill: var(--h3t); }
svg .h4t { fill: var(--h4t); } svg .h5t { fill: var(--h5t); } svg .h6t { fill: var(--h6t); } svg .h7t { fill: var(--h7t); }
svg .h8t { fill: var(--h8t); } svg .hnt { fill: var(--hnt); } svg .hxt { fill: var(--hxt); }
svg .band { fill: var(--panel); } svg .limit { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 2 3; } svg .limit-text { fill: var(--bad); }
svg .l1, svg .l2, svg .l3 { fill: none; stroke-width: 2; } svg .l1 { stroke: var(--s1); } svg .l2 { stroke: var(--s2); stroke-dasharray: 7 4; }
svg .l3 { stroke: var(--s3); stroke-dasharray: 2 3; } svg .p1 { fill: var(--s1); } svg .p2 { fill: var(--s2); } svg .p3 { fill: var(--s3); }
svg .cross { stroke: var(--bad); stroke-width: 2; fill: none; }
)css";

const char *const page_css = R"css(
* { box-sizing: border-box; }
html { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  background: var(--bg); color: var(--text); -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1240px; padding: 20px 24px 56px; overflow-wrap: break-word; }
header p.kind { margin: 0 0 6px; color: var(--soft); font-size: 14px; letter-spacing: 0.02em; }
.verdict { border-left: 6px solid var(--tone); background: var(--tone-bg); padding: 12px 18px 14px; border-radius: 0 6px 6px 0; }
.verdict h1 { margin: 0; font-size: 21px; line-height: 1.38; font-weight: 600; text-wrap: pretty; }
.verdict h1 b { color: var(--tone); letter-spacing: 0.03em; margin-right: 2px; }
.match { --tone: var(--good); --tone-bg: var(--good-bg); } .divergence { --tone: var(--bad); --tone-bg: var(--bad-bg); }
.error { --tone: var(--odd); --tone-bg: var(--odd-bg); }
.parts { list-style: none; margin: 10px 0 0; padding: 0; font-size: 14.5px; }
.parts li { margin: 3px 0; } .tag { color: var(--tone); font-weight: 600; }
dl.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 16px 0 0; background: var(--line);
  border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
dl.tiles div { background: var(--bg); padding: 8px 14px 9px; flex: 1 1 190px; min-width: 0; } dl.tiles dt { color: var(--soft); font-size: 13px; }
dl.tiles dd { margin: 0; font-size: 15px; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums; }
dl.tiles dd small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
h2 { font-size: 18px; line-height: 1.3; margin: 34px 0 4px; font-weight: 600; } h3 { font-size: 15px; margin: 18px 0 4px; }
p { margin: 6px 0; max-width: 78em; } p.lead { color: var(--soft); font-size: 14.5px; }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; unicode-bidi: isolate; overflow-wrap: anywhere; } .nb { white-space: nowrap; }
figure { margin: 10px 0 6px; } figure svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 8px 0; } .scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13.5px; padding: 2px 0 6px; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--soft); font-size: 13px; border-bottom: 1px solid var(--soft); white-space: nowrap; }
table.narrow { width: auto; min-width: 420px; } tbody th { font-weight: 600; } .n { text-align: right; padding-right: 18px; white-space: nowrap; } td small { color: var(--soft); }
tr.bad td:first-of-type, tr.bad th { color: var(--bad); } .none { color: var(--soft); font-style: italic; }
summary { cursor: pointer; color: var(--link); font-size: 14.5px; padding: 3px 0; } summary:focus-visible { outline: 2px solid var(--link); }
ul.lines { margin: 6px 0; padding-left: 20px; } footer { margin-top: 40px; padding-top: 10px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px; }
@media (max-width: 640px) { body { padding: 14px 14px 40px; } .verdict h1 { font-size: 18px; } }
@media print { details { display: block; } body { max-width: none; } }
)css";

}  // namespace bitnet::report
