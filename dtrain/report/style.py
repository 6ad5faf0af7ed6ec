"""The page's style sheet: light and dark, wide and narrow, without a font or a script to load."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #16202c; --soft: #5b6877; --line: #dde2e8; --mark: #fff3cd;
  --mark-ink: #6b4e00; --tint: 213, 94, 0; --track: #eef1f4;
  --run0: #1769aa; --run1: #d1570a; --run2: #0a8a68; --run3: #b04b8f; --run4: #a87900; --run5: #4b59c4;
  --run6: #3e93c9; --run7: #6d6f73;
  --part0: #1769aa; --part1: #4fa3dc; --part2: #a4cdec; --part3: #7b61b8; --part4: #b9a5dd; --part5: #0a8a68;
  --part6: #d1570a; --part7: #f3b27a; --part8: #9aa5b1; --part9: #ccd3da; }
@media (prefers-color-scheme: dark) { :root {
  --page: #11161c; --card: #1a2129; --ink: #e6ebf0; --soft: #9daab8; --line: #303b47; --mark: #47391a;
  --mark-ink: #f5d58a; --tint: 255, 140, 60; --track: #252e38;
  --run0: #5aa9e6; --run1: #f28a3d; --run2: #3fc79f; --run3: #de86c0; --run4: #e0b23a; --run5: #8e9bff;
  --run6: #8fd0f5; --run7: #b5b9be;
  --part0: #3f8fd0; --part1: #6cb4ea; --part2: #b3d6f0; --part3: #9a84d6; --part4: #c5b6e6; --part5: #3fc79f;
  --part6: #f28a3d; --part7: #8a5426; --part8: #76828f; --part9: #465260; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 40px 0 10px; }
h3 { font-size: 14px; margin: 0 0 6px; font-weight: 600; }
p { margin: 0 0 10px; max-width: 75ch; } .soft { color: var(--soft); } .small { font-size: 13px; }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.scroll { overflow-x: auto; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px;
  vertical-align: -1px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; white-space: nowrap; }
tbody th { font-weight: 500; overflow-wrap: anywhere; } td.n, th.n { text-align: right; white-space: nowrap; }
.glance td { white-space: nowrap; } .glance tbody td.n { font-size: 16px; }
.glance tbody th { font-weight: 650; min-width: 110px; }
.best { font-weight: 650; }
.facts td { overflow-wrap: anywhere; min-width: 90px; }
.facts tbody th { width: 1%; padding-right: 28px; color: var(--soft); white-space: nowrap; }
.facts tr.differs > * { background: var(--mark); color: var(--mark-ink); }
.facts tr > :first-child { padding-left: 10px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; font-size: 13px; }
.line { display: inline-block; width: 24px; height: 0; border-top: 2px solid var(--soft); margin-right: 7px;
  vertical-align: 4px; } .line.dashed { border-top-style: dashed; }
.bar { display: flex; height: 26px; border-radius: 5px; overflow: hidden; background: var(--track); }
.bar > span { min-width: 0; } .bars { margin: 4px 0 12px; }
.waits {
  background-image: repeating-linear-gradient(45deg, transparent 0 4px, rgba(255,255,255,.35) 4px 7px); }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--soft); font-size: 13px; }
.matrix { table-layout: fixed; max-width: 470px; font-size: 12.5px; }
.matrix th, .matrix td { border: 0; padding: 0; text-align: center; }
.matrix td { height: 29px; vertical-align: middle; border: 1px solid var(--card); border-radius: 4px;
  background: var(--track); }
.matrix td.right { color: var(--soft); }
.matrix th { color: var(--soft); font-weight: 500; vertical-align: middle; font-size: 12.5px; }
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(54px, 1fr)); gap: 8px 6px;
  margin-top: 12px; }
.worst figure { margin: 0; text-align: center; font-size: 12px; line-height: 1.35; }
.worst img { width: 100%; max-width: 64px; image-rendering: pixelated; border-radius: 4px; display: block;
  margin: 0 auto 2px; border: 1px solid var(--line); }
.note { border-left: 3px solid var(--run4); padding: 2px 0 2px 10px; margin: 6px 0; font-size: 13.5px; }
.warning { border-left-color: var(--run1); font-weight: 600; }
figure.card { margin: 0; } tbody th.name { white-space: nowrap; padding-right: 20px; }
figcaption { color: var(--soft); font-size: 12.5px; line-height: 1.4; margin-top: 8px; }
footer { margin-top: 44px; color: var(--soft); font-size: 13px; }
@media (max-width: 600px) { main { padding: 18px 12px 40px; } h1 { font-size: 22px; } .card { padding: 12px; }
  body { font-size: 14.5px; } .matrix td { height: 26px; } }
@media print { main { max-width: none; padding: 0; } .card { break-inside: avoid; } h2 { break-after: avoid; }
  .grid { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; } body { font-size: 12px; } }
"""
