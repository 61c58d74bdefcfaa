"""What the pages for a run and for a sweep have in common: jinja2 templates.

They are strings in Python files because a Flower App Bundle carries no ``.html``: the ServerApp
draws the report wherever it runs.
"""

from __future__ import annotations

MACROS = """
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

{% macro legend_of(names) %}
<div class="legend">
  {% for name in names %}
  <span><i style="background:var(--c{{ loop.index0 % colours }})"></i>{{ name }}</span>
  {% endfor %}
</div>
{% endmacro %}

{% macro panel_of(panel) %}
<section class="card"><h3>{{ panel.title }}</h3>
  {% if panel.legend %}{{ legend_of(panel.legend) }}{% endif %}
  {{ panel.svg | safe }}</section>
{% endmacro %}

{% macro clients_of(row, g, titled) %}
<section class="card">
  {% if titled %}<h3>{{ row.labels | join(", ") }}</h3>{% endif %}
  {% if g %}
  <div class="legend">
    {% for status in g.statuses %}<span><i class="{{ status }}"></i>{{ status }}</span>{% endfor %}
  </div>
  <div class="scroll">{{ drawing(g) }}</div>
  {% elif row.run.clients %}
  <p class="muted">Too many cells for one page: see clients.jsonl in {{ row.directory }}.</p>
  {% else %}<p class="muted">No round was completed.</p>{% endif %}
  {% for line in row.run.rounds if line.note %}
  <p class="error">Round {{ line.round }} kept the model: {{ line.note }}</p>
  {% endfor %}
</section>
{% endmacro %}

{% macro facts(manifest) %}
{% for name, version in manifest.versions.items() %}
<dt>{{ name }}</dt><dd>{{ version or "not installed" }}</dd>
{% endfor %}
{% for name, value in manifest.hardware.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
{% endmacro %}
"""

CLIENTS_HINT = """
<p class="hint">One cell for each client and round; faulty clients stand first, on red. A kept cell
is the stronger the more the update counted. The dashed line is an equal share.</p>
"""

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ comparison.title }} · hqde-fl</title>
<style>{{ style | safe }}</style>
</head>
"""

FOOT = """
<footer>Drawn by hqde-fl {{ manifest.versions["hqde-fl"] or "" }}.
This file needs nothing else.</footer>
</main></body></html>
"""
