"""The page for the runs of a sweep: a jinja2 template."""

from __future__ import annotations

from hqde_fl.simulations.report.parts import CLIENTS_HINT, FOOT, HEAD, MACROS

_MACROS = """
{% macro accuracy(group) %}
  {% if group.error %}<span class="bad" title="{{ group.error }}">failed</span>
  {% else %}<span class="big">{{ group.accuracy | fixed }}</span>
  {% if group.accuracy is not none %}
  <span class="meter"><i {% if group.accuracy < 0.5 %}class="low"{% endif %}
    style="width:{{ (100 * group.accuracy) | round(1) }}%"></i></span>
  {% endif %}{% endif %}
{% endmacro %}

{% macro difference(group) %}
  {% set d = comparison.difference(group) %}
  <span class="{{ 'bad' if d is not none and d < -0.05 else 'muted' }}">{{ d | signed }}</span>
{% endmacro %}

{% macro heat_map(map) %}
<table class="heat">
  <thead><tr><th></th>{% for name in map.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for line in map.lines %}
  <tr><th>{{ line }}</th>
    {% for spot in map.spots[loop.index0] %}
    {% if spot.value is none %}<td class="none" title="{{ spot.note }}">\u2013</td>
    {% else %}{% set background, ink = shade(spot.value) %}
    <td style="background:{{ background }};color:{{ ink }}" title="{{ spot.note }}">
      {{- spot.value | fixed(2) }}
      {%- if spot.spread is not none %}<small>\u00b1{{ spot.spread | fixed(2) }}</small>{% endif -%}
    </td>{% endif %}
    {% endfor %}</tr>
  {% endfor %}
  </tbody>
</table>
{% endmacro %}

{% macro strip_chart(found, width=300, label=190) %}
{% set step = width / found.last %}
<svg class="strips" role="img" aria-label="whom {{ found.line }} dropped, round by round"
  width="{{ label + width }}" height="{{ 18 * found.strips | length + 4 }}"
  viewBox="0 0 {{ label + width }} {{ 18 * found.strips | length + 4 }}">
  {% for strip in found.strips %}{% set y = 18 * loop.index0 + 2 %}
  <text x="0" y="{{ y + 11 }}">{{ strip.label }}</text>
  <rect class="back" x="{{ label }}" y="{{ y }}" width="{{ width }}" height="14" rx="2"/>
  {% for number, caught, alarm in strip.rounds %}
  {% set x = (label + (number - 1) * step) | round(1) %}
  {% if caught %}
  <rect class="caught" x="{{ x }}" y="{{ y }}" width="{{ step | round(2) }}" height="8"
    opacity="{{ caught | round(2) }}"><title>round {{ number }}:
    {{ (100 * caught) | round | int }} % of the faulty</title></rect>
  {% endif %}
  {% if alarm %}
  <rect class="alarm" x="{{ x }}" y="{{ y + 9 }}" width="{{ step | round(2) }}" height="5"
    opacity="{{ (alarm ** 0.5) | round(2) }}"><title>round {{ number }}:
    {{ (100 * alarm) | round | int }} % of the honest</title></rect>
  {% endif %}
  {% endfor %}
  {% endfor %}
</svg>
{% endmacro %}
"""
_MEANING = """Precision: share of the updates filtered by the rule that were faulty. Recall: share
of the faulty updates that it filtered, of those that it judged; a dash where it singles out nobody,
or had nothing to judge. Rejected, failed, late, skipped: clients, faulty / honest, whose update the
rule never saw."""

_TABLE = """
<div class="card scroll"><table>
  <thead>
  {% if comparison.columns | length > 1 %}
  <tr><th></th>
    {% for column in comparison.columns %}
    {% set columns = 2 + (2 if has_faults[column] else 0) + happened[column] | length %}
    <th class="group" colspan="{{ columns }}">{{ column | join(", ") }}</th>
    {% endfor %}</tr>
  {% endif %}
  <tr><th>{{ varied }}</th>
    {% for column in comparison.columns %}
    <th class="group">accuracy</th><th>difference</th>
    {% if has_faults[column] %}<th>precision</th><th>recall</th>{% endif %}
    {% for name in happened[column] %}<th>{{ name }}</th>{% endfor %}
    {% endfor %}</tr>
  </thead>
  <tbody>
  {% for line in comparison.lines %}
  <tr><th>{{ line }}</th>
    {% for column in comparison.columns %}
    {% set group = comparison.at(line, column) %}
    <td class="group">{{ accuracy(group) }}</td><td>{{ difference(group) }}</td>
    {% if has_faults[column] %}
    <td>{{ group.detection.precision | fixed(2) }}</td>
    <td>{{ group.detection.recall | fixed(2) }}</td>
    {% endif %}
    {% for name in happened[column] %}<td>{{ group.detection.unjudged[name] }}</td>{% endfor %}
    {% endfor %}</tr>
  {% endfor %}
  </tbody>
</table></div>
"""

_RANKING = (
    """
<h2>Ranking by the worst case</h2>
<p class="hint">Final accuracy on the server's test set, mean over
{{ seeds }} seed{{ "s" if seeds > 1 }} (\u00b1 half the distance between the best and the worst
seed). Worst: over all {{ conditions }} conditions.
"""
    + _MEANING
    + """</p>
<div class="card scroll"><table class="rank">
  <thead><tr><th>{{ varied }}</th><th>worst</th><th></th>
    <th class="left">worst under</th>
    <th>mean{{ " with faults" if faulty }}</th>{% if faulty %}<th>no faults</th><th>precision</th>
    <th>recall</th><th>F1</th>{% endif %}
    {% for name in happened_ever %}<th>{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for score in study.scores %}
  <tr><th>{{ score.line }}</th>
    <td>{% if score.worst %}<span class="big">{{ score.worst.accuracy | fixed }}</span>
      <span class="meter"><i {% if score.worst.accuracy < 0.5 %}class="low"{% endif %}
        style="width:{{ (100 * score.worst.accuracy) | round(1) }}%"></i></span>
      {% else %}\u2013{% endif %}</td>
    <td class="muted">{% if score.worst and score.worst.spread is not none %}
      \u00b1{{ score.worst.spread | fixed }}{% endif %}</td>
    <td class="where">{{ score.worst.labels[1:] | join(", ") if score.worst }}
      {% if score.missing %}
      <span class="bad">{{ score.missing }} failed or not run</span>{% endif %}
    </td>
    <td>{{ score.mean | fixed }}</td>
    {% if faulty %}<td>{{ score.clean | fixed }}</td>
    {% set filters = score.line in study.filters %}
    <td>{{ (score.detection.precision if filters else none) | fixed(2) }}</td>
    <td>{{ (score.detection.recall if filters else none) | fixed(2) }}</td>
    <td>{{ (score.detection.f1 if filters else none) | fixed(2) }}</td>{% endif %}
    {% for name in happened_ever %}<td>{{ score.unjudged[name] }}</td>{% endfor %}</tr>
  {% endfor %}
  </tbody>
</table></div>
"""
)

_HEAT = """
<h2>Where each holds, and where it falls</h2>
<p class="hint">Final accuracy, mean and spread over the seeds. All maps share one scale.</p>
<div class="scale">0 <span>{% for colour in scale %}<i style="background:{{ colour }}"></i>
  {%- endfor %}</span> 1</div>
<div class="panels pairs">
{% for map in maps %}
<section class="card{{ " wide" if map.columns | length > narrow }}"><h3>{{ map.title }}</h3>
  <div class="scroll">{{ heat_map(map) }}</div></section>
{% endfor %}
</div>
"""

_FILTER = (
    """
<h2>Who was singled out</h2>
<p class="hint">Over all clients, rounds, seeds and numbers of faulty clients.
"""
    + _MEANING
    + """ F1: their harmonic mean. Lines whose rule singles out nobody are left out.</p>
<div class="panels pairs">
{% for map in found %}
<section class="card{{ " wide" if map.columns | length > narrow }}"><h3>{{ map.title }}</h3>
  <div class="scroll">{{ heat_map(map) }}</div></section>
{% endfor %}
</div>
{% if strips %}
<h2>Who was dropped when</h2>
<p class="hint">Round after round from left to right, of the clients whose update the rule judged:
the share of the faulty ones that it filtered (should be full), and below it the share of the honest
ones (should be empty).</p>
<div class="legend"><span><i class="caught"></i>faulty, filtered</span>
  <span><i class="alarm"></i>honest, filtered</span></div>
<div class="panels pairs">
{% for each in strips %}
<section class="card"><h3>{{ each.line }}</h3>
  <div class="scroll">{{ strip_chart(each) }}</div></section>
{% endfor %}
</div>
{% endif %}
"""
)

_COST = """
<h2>What it cost</h2>
<div class="card scroll"><table>
  <thead><tr><th>{{ varied }}</th><th>MB from the clients</th>
    <th>MB to the clients</th><th>seconds a run</th><th>peak memory, MiB</th></tr></thead>
  <tbody>
  {% for score in study.scores %}
  <tr><th>{{ score.line }}</th><td>{{ score.megabytes_up | fixed(2) }}</td>
    <td>{{ score.megabytes_down | fixed(2) }}</td><td>{{ score.seconds | fixed(1) }}</td>
    <td>{{ score.memory | fixed(0) }}</td></tr>
  {% endfor %}
  </tbody>
</table></div>
<p class="hint" style="margin-top:8px">Means over the runs; the memory is the most that the process
of a run had in use at the end of a round, with everything that earlier runs had left in it.</p>
"""

_RUNS = """
<details {{ "open" if comparison.rows | length <= 12 }}><summary><h2>All runs</h2></summary>
<div class="card scroll"><table>
  <thead><tr><th>run</th><th>status</th><th>accuracy</th><th>loss</th>
    <th>precision</th><th>recall</th><th>false alarms</th>
    {% for name in unjudged %}<th>{{ name }}</th>{% endfor %}
    <th>MB up</th><th>MB down</th><th>seconds</th><th>directory</th></tr></thead>
  <tbody>
  {% for row in comparison.rows %}
  <tr><td>{{ row.labels | join(", ") }}</td>
    <td class="{{ 'good' if row.status == 'finished' else 'bad' }}">{{ row.status }}</td>
    {% if row.run %}
    {% set found = row.run.detection %}
    <td>{{ row.accuracy | fixed }}</td>
    <td>{{ row.run.final.get("loss") | fixed }}</td>
    <td>{{ found.precision | fixed(2) }}</td><td>{{ found.recall | fixed(2) }}</td>
    <td>{{ found.false_alarms ~ " / " ~ found.judged.honest if row.run.filters else "\u2013" }}</td>
    {% for name in unjudged %}<td>{{ found.unjudged[name] }}</td>{% endfor %}
    <td>{{ "%.2f" | format(row.run.rounds | sum(attribute="bytes-up") / 1e6) }}</td>
    <td>{{ "%.2f" | format(row.run.rounds | sum(attribute="bytes-down") / 1e6) }}</td>
    <td>{{ "%.1f" | format(row.run.seconds) }}</td>
    <td class="muted">{{ row.directory }}</td>
    {% else %}<td colspan="{{ 9 + unjudged | length }}"></td>{% endif %}</tr>
  {% if row.error %}
  <tr><td class="error" colspan="{{ 11 + unjudged | length }}">{{ row.error }}</td></tr>
  {% endif %}
  {% endfor %}
  </tbody>
</table></div>
</details>
"""

SWEEP_PAGE = (
    HEAD
    + MACROS
    + _MACROS
    + """<body><main>
<header>
  <h1>{{ comparison.title }}</h1>
  <p>{{ component_label(experiment.task) }} · {{ experiment.clients.count }} clients
  · {{ experiment.rounds }} rounds · {{ comparison.rows | length }} cells:
  {% for axis in comparison.axes %}{{ axis.labels | length }}
  {{- " " ~ axis.name }}{{ " \u00d7 " if not loop.last }}{% endfor %}</p>
</header>
{% set bad = comparison.rows | rejectattr("status", "equalto", "finished") | list %}
{% if bad %}
<br><div class="card error">
{{ bad | length }} of {{ comparison.rows | length }} cells did not finish.
{{- " " ~ (bad | map(attribute="error") | select | first | default("")) }}</div>
{% endif %}
{% if small %}
<h2>Final accuracy</h2>
<p class="hint">On the server's test set, mean over {{ seeds }} seed{{ "s" if seeds > 1 }}.
Differences are to \u201c{{ comparison.baseline.labels | join(", ") }}\u201d.
"""
    + _MEANING
    + "</p>"
    + _TABLE
    + "{% endif %}{% if conditions > 1 and comparison.lines | length > 1 %}"
    + _RANKING
    + "{% endif %}{% if maps and not small %}"
    + _HEAT
    + """{% endif %}
<h2>Round by round</h2>
{{ legend_of(comparison.lines) }}
<div class="panels {{ "pairs" if panels | length <= 4 }}">
{% for panel in panels %}{{ panel_of(panel) }}{% endfor %}
</div>
{% if found %}"""
    + _FILTER
    + """{% endif %}
<h2>{{ "Clients, in the worst run of each line" if some else "Who was kept, and who was not" }}</h2>
"""
    + CLIENTS_HINT
    + """
<div class="panels pairs">
{% for row, g in grids %}{{ clients_of(row, g, true) }}{% endfor %}
</div>
"""
    + _COST
    + _RUNS
    + """
<h2>What ran</h2>
<div class="two">
<section class="card"><h3>Sweep</h3><dl>
  <dt>started</dt><dd>{{ started }}</dd>
  <dt>ended</dt><dd>{{ ended }}</dd>
  <dt>engine</dt><dd>{{ manifest.engine }}</dd>
  {% for axis in comparison.axes %}
  <dt>{{ axis.name }}</dt><dd>{{ axis.labels | join(" · ") }}</dd>
  {% endfor %}
  {{ facts(manifest) }}
</dl></section>
<section class="card"><h3>Experiment of the first run</h3>
  <pre>{{ experiment | toml }}</pre></section>
</div>
"""
    + FOOT
)
