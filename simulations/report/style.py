"""The report's style sheet: light and dark, wide and narrow."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --muted: #5c6570; --rule: #dfe3e8;
  --accent: #2a6fdb; --bad: #c62f3a; --good: #18794e; --track: #e9ecf0;
  --c0: #2a6fdb; --c1: #d9730d; --c2: #18916a; --c3: #8250df; --c4: #cf222e; --c5: #0e8a9c;
  --c6: #9a6700; --c7: #6e7781;
  --kept: #2a6fdb; --filtered: #e8890c; --rejected: #cf222e; --failed: #57606a;
  --late: #a97bd6; --skipped: #8fb8ad; --unused: #c3c9d1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --card: #171b22; --ink: #e7ebf0; --muted: #9aa4b0; --rule: #2b323c;
    --accent: #6aa5ff; --bad: #ff7b82; --good: #57c98f; --track: #262c35;
    --c0: #6aa5ff; --c1: #ffa657; --c2: #56d3a2; --c3: #c5a3ff; --c4: #ff7b82; --c5: #5fd0e0;
    --c6: #e3b341; --c7: #a3adb8;
    --kept: #5b9bff; --filtered: #ffab45; --rejected: #ff6b74; --failed: #8b949e;
    --late: #c5a3ff; --skipped: #5f8a80; --unused: #3b444f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
header h1 { margin: 0 0 4px; font-size: 28px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--muted); }
h2 { margin: 40px 0 12px; font-size: 18px; }
h3 { margin: 0 0 8px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
p.hint { margin: -6px 0 14px; color: var(--muted); max-width: 75ch; }
.card, .tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.card { padding: 16px; }
.card + .card { margin-top: 14px; }
.scroll { overflow-x: auto; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile { padding: 14px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-weight: 650; }
.tile span { color: var(--muted); font-size: 13px; }
.panels, .two { display: grid; gap: 14px; --least: 330px; }
.panels, .two { grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); }
.panels.pairs { --least: 500px; }
.two { --least: 420px; }
.panels .card { margin: 0; min-width: 0; }
.chart { display: block; width: 100%; height: auto; }
.chart text, .grid text { font-family: inherit !important; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 12px; font-size: 13px; }
.legend i {
  display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px;
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; }
th { font-weight: 600; font-size: 13px; color: var(--muted); }
thead th { border-bottom: 1px solid var(--rule); }
thead th[colspan] { text-align: center; color: var(--ink); border-bottom: 0; padding-bottom: 0; }
th:first-child, td:first-child, .left { text-align: left; }
tbody th { color: var(--ink); font-size: 14px; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
td.group, th.group { border-left: 1px solid var(--rule); }
.big { font-size: 16px; font-weight: 650; }
.bad { color: var(--bad); } .good { color: var(--good); } .muted { color: var(--muted); }
.meter, .meter i { display: block; height: 4px; border-radius: 2px; }
.meter { background: var(--track); margin-top: 3px; }
.meter i { background: var(--accent); }
.meter i.low { background: var(--bad); }
.error { color: var(--bad); white-space: normal; overflow-wrap: anywhere; }
.grid { display: block; }
.grid text { fill: var(--muted); font-size: 11px; }
.grid .who { fill: var(--ink); }
.grid .fault { fill: var(--bad); font-weight: 600; }
.grid .band { fill: var(--bad); opacity: 0.09; }
.grid .track { fill: var(--track); }
.grid .fair { stroke: var(--muted); stroke-dasharray: 2 3; }
.kept { fill: var(--kept); background: var(--kept); }
.filtered { fill: var(--filtered); background: var(--filtered); }
.rejected { fill: var(--rejected); background: var(--rejected); }
.failed { fill: var(--failed); background: var(--failed); }
.late { fill: var(--late); background: var(--late); }
.unused { fill: var(--unused); background: var(--unused); }
.skipped { fill: var(--skipped); background: var(--skipped); }
.outcomes { max-width: 480px; margin-bottom: 14px; }
details > summary { cursor: pointer; font-weight: 600; }
details > summary + * { margin-top: 12px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre {
  margin: 0; overflow-x: auto;
  font: 12.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
.two .card { margin: 0; min-width: 0; }
a { color: var(--accent); }
footer { margin-top: 40px; color: var(--muted); font-size: 13px; }
@media (max-width: 560px) {
  main { padding: 20px 14px 48px; }
  header h1 { font-size: 23px; }
  th, td { padding: 6px 8px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .tile b { font-size: 21px; }
}
.heat { width: auto; border-collapse: separate; border-spacing: 2px; }
.heat th { padding: 3px 8px; font-size: 12px; }
.heat tbody th { font-size: 13px; font-weight: 500; text-align: left; }
.heat thead th { border: 0; text-align: center; vertical-align: bottom; white-space: normal;
  min-width: 66px; max-width: 92px; line-height: 1.2; padding: 0 4px 4px; }
.heat td { padding: 4px 6px; border: 0 !important; text-align: center; border-radius: 4px;
  min-width: 66px; font-size: 13.5px; line-height: 1.15; }
.wide { grid-column: 1 / -1; }
.heat tr > * { border-top: 0 !important; }
.heat td small { display: block; font-size: 10.5px; opacity: 0.85; }
.heat td.none { background: var(--track); color: var(--muted); }
.heat th:first-child { position: sticky; left: 0; background: var(--card); z-index: 1;
  max-width: none; }
.scale { display: flex; align-items: center; gap: 8px; font-size: 12px; color: var(--muted);
  margin: 0 0 14px; }
.scale span { display: flex; border-radius: 3px; overflow: hidden; }
.scale i { width: 18px; height: 10px; display: block; }
.rank th:first-child, .rank td:first-child { position: sticky; left: 0; background: var(--card); }
.rank td.where { text-align: left; color: var(--muted); }
.strips text { fill: var(--muted); font-size: 11px; }
.strips .back { fill: var(--track); }
.strips .caught { fill: var(--good); } .strips .alarm { fill: var(--filtered); }
.caught { background: var(--good); } .alarm { background: var(--filtered); }
summary h2 { display: inline-block; margin: 34px 0 12px; }
@media (max-width: 560px) {
  .heat td { min-width: 50px; padding: 4px 3px; font-size: 12.5px; }
  .heat thead th { min-width: 50px; font-size: 10px; padding: 0 1px 4px; }
  .heat tbody th { font-size: 11.5px; max-width: 110px; min-width: 84px;
    white-space: normal; padding: 3px 4px; }
  .heat { border-spacing: 1px; }
  .rank td:first-child { max-width: 130px; white-space: normal; }
}
"""
