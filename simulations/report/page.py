"""The page for one run: a jinja2 template."""

from __future__ import annotations

from hqde_fl.simulations.report.parts import CLIENTS_HINT, FOOT, HEAD, MACROS

_TILES = """
{% set found = run.detection %}
<div class="tiles">
  <div class="tile">
    <b class="{{ 'bad' if (run.accuracy or 1) < 0.5 }}">{{ run.accuracy | fixed }}</b>
    <span>final accuracy</span></div>
  <div class="tile"><b>{{ run.final.get("loss") | fixed }}</b><span>final loss</span></div>
  {% if not run.filters %}
  <div class="tile"><b>\u2013</b>
    <span>precision and recall: the rule singles out nobody</span></div>
  {% elif run.faulty %}
  <div class="tile"><b>{{ found.recall | fixed(2) }}</b>
    <span>recall: {{ found.caught }} of {{ found.judged.faulty }} faulty updates filtered
    {%- if not found.judged.faulty %}: the rule judged none{% endif %}</span></div>
  <div class="tile"><b>{{ found.precision | fixed(2) }}</b>
    <span>precision: {{ found.false_alarms }} honest ones filtered too</span></div>
  {% else %}
  <div class="tile"><b>{{ found.false_alarms }}</b>
    <span>of {{ found.judged.honest }} honest updates filtered</span></div>
  {% endif %}
  <div class="tile"><b>{{ "%.2f" | format(run.rounds | sum(attribute="bytes-up") / 1e6) }} MB</b>
    <span>from the clients</span></div>
  <div class="tile"><b>{{ "%.1f" | format(run.seconds) }} s</b>
    <span>for {{ [run.rounds | length - 1, 0] | max }} rounds</span></div>
</div>
"""

_OUTCOMES = """
{% set found = run.detection %}
<div class="card scroll outcomes"><table>
  <thead><tr><th>clients, over all rounds</th><th>faulty</th><th>honest</th></tr></thead>
  <tbody>
  {% for name, count in [("asked", found.asked), ("judged by the rule", found.judged),
                         ("filtered by the rule", found.filtered)] %}
  <tr><th>{{ name }}</th>
    {% if run.filters or name == "asked" %}<td>{{ count.faulty }}</td><td>{{ count.honest }}</td>
    {% else %}<td>\u2013</td><td>\u2013</td>{% endif %}</tr>
  {% endfor %}
  {% for name, count in found.unjudged.items() %}
  <tr><th>{{ name }}</th><td>{{ count.faulty }}</td><td>{{ count.honest }}</td></tr>
  {% endfor %}
  </tbody>
</table></div>
<p class="hint">{% if run.filters %}Precision and recall are about those whose update the rule
judged.{% else %}The rule singles out nobody, so it has no precision and no recall
(\u2013).{% endif %} Rejected by screening, failed, late or skipped: the rule did not see their
update.</p>
"""


PAGE = (
    HEAD
    + MACROS
    + """<body><main>
<header>
  <h1>{{ comparison.title }}</h1>
  <p>{{ component_label(experiment.task) }} · {{ experiment.clients.count }} clients
  · {{ component_label(experiment.clients.partition) }} · {{ experiment.rounds }} rounds
  · seed {{ manifest.seed }} · {{ comparison.rows[0].labels[0] }}</p>
</header>

<h2>Result</h2>
{% if manifest.status != "finished" %}
<div class="card error"><b>{{ manifest.status }}</b> {{ manifest.error or "" }}</div><br>
{% endif %}{% if run.void_rounds %}
<p class="hint">{{ run.void_rounds }}</p>
{% endif %}"""
    + _TILES
    + """
<h2>Round by round</h2>
<div class="panels">{% for panel in panels %}{{ panel_of(panel) }}{% endfor %}</div>

<h2>Who was kept, and who was not</h2>
"""
    + CLIENTS_HINT
    + _OUTCOMES
    + """
<div class="panels pairs">
{% for row, g in grids %}{{ clients_of(row, g, false) }}{% endfor %}
</div>

<h2>What ran</h2>
<div class="two">
<section class="card"><h3>Run</h3><dl>
  <dt>started</dt><dd>{{ manifest.started }}</dd>
  <dt>ended</dt><dd>{{ manifest.ended }}</dd>
  <dt>engine</dt><dd>{{ manifest.engine }}</dd>
  <dt>seed</dt><dd>{{ manifest.seed }}</dd>
  <dt>faults</dt><dd>{{ faults_label(experiment.faults) }}
    {%- if run.faulty %}: clients {{ run.faulty | sort | join(", ") }}{% endif %}</dd>
  {{ facts(manifest) }}
</dl></section>
<section class="card"><h3>Experiment</h3>
  <pre>{{ experiment | toml }}</pre></section>
</div>
"""
    + FOOT
)
