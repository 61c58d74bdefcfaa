"""The report's page: a jinja2 template and its style sheet.

They are strings in a Python file because a Flower App Bundle carries no ``.html``: the ServerApp
draws the report wherever it runs.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --muted: #5c6570; --rule: #dfe3e8;
  --accent: #2a6fdb; --bad: #c62f3a; --good: #18794e; --track: #e9ecf0;
  --c0: #2a6fdb; --c1: #d9730d; --c2: #18916a; --c3: #8250df; --c4: #cf222e; --c5: #0e8a9c;
  --c6: #9a6700; --c7: #6e7781;
  --kept: #2a6fdb; --filtered: #e8890c; --rejected: #cf222e; --failed: #57606a;
  --late: #a97bd6; --unused: #c3c9d1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --card: #171b22; --ink: #e7ebf0; --muted: #9aa4b0; --rule: #2b323c;
    --accent: #6aa5ff; --bad: #ff7b82; --good: #57c98f; --track: #262c35;
    --c0: #6aa5ff; --c1: #ffa657; --c2: #56d3a2; --c3: #c5a3ff; --c4: #ff7b82; --c5: #5fd0e0;
    --c6: #e3b341; --c7: #a3adb8;
    --kept: #5b9bff; --filtered: #ffab45; --rejected: #ff6b74; --failed: #8b949e;
    --late: #c5a3ff; --unused: #3b444f;
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
"""

_MACROS = """
{% macro accuracy(row) %}
  {% if row.error %}<span class="bad" title="{{ row.error }}">failed</span>
  {% else %}<span class="big">{{ row.accuracy | fixed }}</span>
  {% if row.accuracy is not none %}
  <span class="meter"><i {% if row.accuracy < 0.5 %}class="low"{% endif %}
    style="width:{{ (100 * row.accuracy) | round(1) }}%"></i></span>
  {% endif %}{% endif %}
{% endmacro %}

{% macro difference(row) %}
  {% set d = comparison.difference(row) %}
  <span class="{{ 'bad' if d is not none and d < -0.05 else 'muted' }}">{{ d | signed }}</span>
{% endmacro %}

{% macro drawing(g) %}
<svg class="grid" role="img" aria-label="what became of every client in every round"
  width="{{ g.width | round(1) }}" height="{{ g.height }}"
  viewBox="0 0 {{ g.width | round(1) }} {{ g.height }}">
  {% for x, number in g.ticks %}
  <text x="{{ x | round(1) }}" y="14" text-anchor="middle">{{ number }}</text>
  {% endfor %}
  <text x="{{ g.bars | round(1) }}" y="14">mean influence</text>
  {% for line in g.lines %}
  {% if line.fault %}
  <rect class="band" x="0" y="{{ line.y - 1 }}" width="{{ g.width | round(1) }}" height="19"/>
  {% endif %}
  <text class="who" x="2" y="{{ line.y + 12.5 }}">{{ line.label }}
    {%- if line.fault %} <tspan class="fault">{{ line.fault }}</tspan>{% endif %}</text>
  <rect class="track" x="{{ g.bars | round(1) }}" y="{{ line.y + 4 }}"
    width="92" height="9" rx="2"/>
  <rect class="kept" x="{{ g.bars | round(1) }}" y="{{ line.y + 4 }}" height="9" rx="2"
    width="{{ (line.share * g.scale) | round(1) }}"/>
  <text x="{{ (g.bars + 97) | round(1) }}" y="{{ line.y + 12.5 }}">
    {{- (100 * line.share) | fixed(1) }} %</text>
  {% endfor %}
  {% for s in g.squares %}
  <rect class="{{ s.status }}" x="{{ s.x | round(1) }}" y="{{ s.y }}"
    {%- if s.strength < 1 %} opacity="{{ s.strength | round(2) }}"{% endif %}
    width="{{ s.width | round(1) }}" height="17" rx="2"><title>{{ s.title }}</title></rect>
  {% endfor %}
  <line class="fair" x1="{{ (g.bars + g.fair * g.scale) | round(1) }}" y1="20"
    x2="{{ (g.bars + g.fair * g.scale) | round(1) }}" y2="{{ g.height }}"/>
</svg>
{% endmacro %}
"""

_TABLE = """
<div class="card scroll"><table>
  <thead>
  {% if comparison.columns | length > 1 %}
  <tr><th></th>
    {% for column in comparison.columns %}
    <th class="group" colspan="{{ 4 if has_faults[column] else 2 }}">{{ column | join(", ") }}</th>
    {% endfor %}</tr>
  {% endif %}
  <tr><th>{{ comparison.compared[0].name if comparison.compared else "" }}</th>
    {% for column in comparison.columns %}
    <th class="group">accuracy</th><th>difference</th>
    {% if has_faults[column] %}<th>precision</th><th>recall</th>{% endif %}
    {% endfor %}</tr>
  </thead>
  <tbody>
  {% for line in comparison.lines %}
  <tr><th>{{ line }}</th>
    {% for column in comparison.columns %}
    {% set row = comparison.at(line, column) %}
    <td class="group">{{ accuracy(row) }}</td><td>{{ difference(row) }}</td>
    {% if has_faults[column] %}
    <td>{{ row.detection.precision | fixed(2) }}</td>
    <td>{{ row.detection.recall | fixed(2) }}</td>
    {% endif %}
    {% endfor %}</tr>
  {% endfor %}
  </tbody>
</table></div>
"""

_TILES = """
{% set found = run.detection %}
<div class="tiles">
  <div class="tile">
    <b class="{{ 'bad' if (run.accuracy or 1) < 0.5 }}">{{ run.accuracy | fixed }}</b>
    <span>final accuracy</span></div>
  <div class="tile"><b>{{ run.final.get("loss") | fixed }}</b><span>final loss</span></div>
  {% if run.faulty %}
  <div class="tile"><b>{{ found.recall | fixed(2) }}</b>
    <span>recall: {{ found.caught }} of {{ found.faulty }} faulty updates excluded</span></div>
  <div class="tile"><b>{{ found.precision | fixed(2) }}</b>
    <span>precision: {{ found.false_alarms }} honest ones excluded too</span></div>
  {% else %}
  <div class="tile"><b>{{ found.false_alarms }}</b>
    <span>of {{ found.honest }} honest updates excluded</span></div>
  {% endif %}
  <div class="tile"><b>{{ "%.2f" | format(run.rounds | sum(attribute="bytes-up") / 1e6) }} MB</b>
    <span>from the clients</span></div>
  <div class="tile"><b>{{ "%.1f" | format(run.seconds) }} s</b>
    <span>for {{ [run.rounds | length - 1, 0] | max }} rounds</span></div>
</div>
"""

_RUNS = """
<h2>All runs</h2>
<div class="card scroll"><table>
  <thead><tr><th>run</th><th>status</th><th>accuracy</th><th>loss</th>
    <th>precision</th><th>recall</th><th>false alarms</th>
    <th>MB up</th><th>MB down</th><th>seconds</th><th></th></tr></thead>
  <tbody>
  {% for row in comparison.rows %}
  <tr><td>{{ row.labels | join(", ") }}</td>
    <td class="{{ 'good' if row.status == 'finished' else 'bad' }}">{{ row.status }}</td>
    {% if row.run %}
    {% set found = row.run.detection %}
    <td>{{ row.accuracy | fixed }}</td>
    <td>{{ row.run.final.get("loss") | fixed }}</td>
    <td>{{ found.precision | fixed(2) }}</td><td>{{ found.recall | fixed(2) }}</td>
    <td>{{ found.false_alarms }} / {{ found.honest }}</td>
    <td>{{ "%.2f" | format(row.run.rounds | sum(attribute="bytes-up") / 1e6) }}</td>
    <td>{{ "%.2f" | format(row.run.rounds | sum(attribute="bytes-down") / 1e6) }}</td>
    <td>{{ "%.1f" | format(row.run.seconds) }}</td>
    <td><a href="{{ row.directory | urlencode }}/report.html">report</a></td>
    {% else %}<td colspan="9"></td>{% endif %}</tr>
  {% if row.error %}
  <tr><td class="error" colspan="11">{{ row.error }}</td></tr>
  {% endif %}
  {% endfor %}
  </tbody>
</table></div>
"""

PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ comparison.title }} · hqde-fl</title>
<style>"""
    + STYLE
    + "</style>\n</head>\n"
    + _MACROS
    + """<body><main>
<header>
  <h1>{{ comparison.title }}</h1>
  <p>{{ component_label(experiment.task) }} · {{ experiment.clients.count }} clients
  · {{ component_label(experiment.clients.partition) }} · {{ experiment.rounds }} rounds
  · seed {{ manifest.seed }}
  {% if not several %}· {{ comparison.rows[0].labels[0] }}{% endif %}</p>
</header>

<h2>{{ "Result" if not several else "Final accuracy" }}</h2>
{% if several %}
<p class="hint">On the server's test set. Differences are to
“{{ comparison.baseline.labels | join(", ") }}”. Precision: share of the excluded updates that were
faulty. Recall: share of the faulty updates that were excluded.</p>
"""
    + _TABLE
    + "{% else %}\n"
    + """{% if manifest.status != "finished" %}
<div class="card error"><b>{{ manifest.status }}</b> {{ manifest.error or "" }}</div><br>
{% endif %}"""
    + _TILES
    + """{% endif %}

<h2>Round by round</h2>
{% if legend %}
<div class="legend">
  {% for name in legend %}
  <span><i style="background:var(--c{{ loop.index0 % colours }})"></i>{{ name }}</span>
  {% endfor %}
</div>
{% endif %}
<div class="panels {{ "pairs" if several and comparison.columns | length in (1, 2) }}">
  {% for panel in panels %}
  <section class="card"><h3>{{ panel.title }}</h3>
    {% if panel.legend %}
    <div class="legend">
      {% for name in panel.legend %}
      <span><i style="background:var(--c{{ loop.index0 % colours }})"></i>{{ name }}</span>
      {% endfor %}
    </div>
    {% endif %}
    {{ panel.svg | safe }}</section>
  {% endfor %}
</div>

<h2>Who was kept, and who was not</h2>
<p class="hint">One cell for each client and round; faulty clients stand first, on red. A kept cell
is the stronger the more the update counted. The dashed line is an equal share.</p>
<div class="panels pairs">
{% for row, g in grids %}
<section class="card">
  {% if several %}<h3>{{ row.labels | join(", ") }}</h3>{% endif %}
  {% if g %}
  <div class="legend">
    {% for status in g.statuses %}<span><i class="{{ status }}"></i>{{ status }}</span>{% endfor %}
  </div>
  <div class="scroll">{{ drawing(g) }}</div>
  {% elif row.run.clients %}
  <p class="muted">Too many cells for one page: see
    <a href="{{ row.directory | urlencode }}/report.html">its own report</a>.</p>
  {% else %}<p class="muted">No round was completed.</p>{% endif %}
  {% for line in row.run.rounds if line.note %}
  <p class="error">Round {{ line.round }} kept the model: {{ line.note }}</p>
  {% endfor %}
</section>
{% endfor %}
</div>
"""
    + "{% if several %}"
    + _RUNS
    + """{% endif %}

<h2>What ran</h2>
<div class="two">
<section class="card"><h3>Run</h3><dl>
  <dt>started</dt><dd>{{ manifest.started }}</dd>
  <dt>ended</dt><dd>{{ comparison.rows[-1].run.manifest.ended if comparison.rows[-1].run
    else manifest.ended }}</dd>
  <dt>engine</dt><dd>{{ manifest.engine }}</dd>
  <dt>seed</dt><dd>{{ manifest.seed }}</dd>
  <dt>faults</dt><dd>{% if several %}see the table{% else %}{{ faults_label(experiment.faults) }}
    {%- if run.faulty %}: clients {{ run.faulty | sort | join(", ") }}{% endif %}{% endif %}</dd>
  {% for name, version in manifest.versions.items() %}
  <dt>{{ name }}</dt><dd>{{ version or "not installed" }}</dd>
  {% endfor %}
  {% for name, value in manifest.hardware.items() %}
  <dt>{{ name }}</dt><dd>{{ value }}</dd>
  {% endfor %}
</dl></section>
<section class="card"><h3>Experiment{{ " of the first run" if several }}</h3>
  <pre>{{ experiment | toml }}</pre></section>
</div>
<footer>Drawn by hqde-fl {{ manifest.versions["hqde-fl"] or "" }}.
This file needs nothing else.</footer>
</main></body></html>
"""
)
