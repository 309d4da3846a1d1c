"""How the page of a trace looks: light and dark, wide and on a phone; no script, no font and no picture from elsewhere."""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--paper:#f7f7f4;--card:#fff;--ink:#1b1b1f;--faint:#63636c;--line:#e0e0da;--wash:#efefea;
--accent:#0072b2;--good:#00795a;--bad:#b8400a;--user:#e3eef7;--model:#eef4ee}
@media (prefers-color-scheme:dark){:root{--paper:#131316;--card:#1c1c21;--ink:#ececf0;--faint:#a0a0ab;--line:#33333b;
--wash:#26262c;--accent:#56b4e9;--good:#3cc79d;--bad:#ff8a4c;--user:#1f2e3c;--model:#22302a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:1.4rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:2.2rem 0 .8rem}
h3{font-size:.95rem;margin:0;font-weight:600}
p{margin:.4rem 0}
.answer{font-size:1.05rem;margin:.2rem 0 .8rem;overflow-wrap:anywhere}
.chips{display:flex;flex-wrap:wrap;gap:.4rem;margin:0 0 1rem;padding:0;list-style:none}
.chips li{background:var(--wash);border-radius:99px;padding:.1rem .7rem;font-size:.85rem;overflow-wrap:anywhere}
.chips .good{color:var(--good);font-weight:600}.chips .bad{color:var(--bad);font-weight:600}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.9rem 1rem}
.warn{border-left:4px solid var(--bad);overflow-wrap:anywhere}
.hero{display:grid;grid-template-columns:minmax(0,1.75fr) minmax(0,1fr);gap:1rem;align-items:start}
.seen{position:relative;padding:.6rem}
.stage{width:100%;max-height:80vh;display:block;border-radius:6px;background:var(--wash)}
.defs{position:absolute}
.unkept{fill:#77777c}
.masks path{fill-opacity:.2;stroke-width:2px;vector-effect:non-scaling-stroke;stroke-opacity:1}
.edge{fill:none;stroke-width:2px;vector-effect:non-scaling-stroke;stroke-dasharray:7 4}
.edge.under{stroke:#111;stroke-width:3.5px;stroke-opacity:.55;stroke-dasharray:none}
.label text{fill:#111;font-weight:700;text-anchor:middle}
.toggle{position:absolute;opacity:0}
.layers{display:flex;flex-wrap:wrap;gap:.4rem;padding:.6rem 0 0}
.layers label{border:1px solid var(--line);border-radius:99px;padding:.15rem .8rem;font-size:.85rem;cursor:pointer;
color:var(--faint);user-select:none}
#masks:checked~.layers [for=masks],#boxes:checked~.layers [for=boxes],#points:checked~.layers [for=points],
#dropped:checked~.layers [for=dropped]{background:var(--wash);color:var(--ink);border-color:var(--faint)}
#masks:focus-visible~.layers [for=masks],#boxes:focus-visible~.layers [for=boxes],
#points:focus-visible~.layers [for=points],#dropped:focus-visible~.layers [for=dropped]{outline:2px solid var(--accent)}
#masks:not(:checked)~.stage .masks,#boxes:not(:checked)~.stage .boxes,#points:not(:checked)~.stage .points,
#dropped:not(:checked)~.stage .dropped{display:none}
.things{display:grid;gap:.6rem}
.thing{border-left:5px solid var(--line)}
.facts{display:grid;grid-template-columns:auto 1fr;gap:.1rem .9rem;margin:.3rem 0 0;font-size:.88rem}
.facts dt{color:var(--faint)}.facts dd{margin:0;overflow-wrap:anywhere}
.step{margin:0 0 .8rem}
.head{display:flex;justify-content:space-between;gap:1rem;align-items:baseline;margin-bottom:.6rem}
.head span{color:var(--faint);font-size:.85rem;white-space:nowrap}
.said{border-radius:12px;padding:.5rem .8rem;margin:.4rem 0;white-space:pre-wrap;overflow-wrap:anywhere;max-width:88%;
unicode-bidi:isolate;max-height:24rem;overflow-y:auto;width:fit-content}
.said b{display:block;font-size:.72rem;letter-spacing:.03em;color:var(--faint);font-weight:600}
.user{background:var(--user)}.system{background:var(--wash);font-size:.85rem;color:var(--faint)}
.assistant{background:var(--model);margin-left:auto}
details{margin:.5rem 0 0}summary{cursor:pointer;color:var(--accent);font-size:.9rem}
.wide{overflow-x:auto;margin-top:.5rem}
table{border-collapse:collapse;font-size:.85rem;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--faint);font-weight:500;white-space:nowrap}
td.words{min-width:11rem;overflow-wrap:anywhere;unicode-bidi:isolate}td.n{white-space:nowrap}
tr.out td{color:var(--faint)}
.on{color:var(--good);font-weight:600}.off{color:var(--bad);font-weight:600}
.bar{display:inline-block;position:relative;width:84px;height:.62em;border-radius:3px;background:var(--wash);overflow:hidden;
margin-right:.5em}
.bar i{position:absolute;inset:0 auto 0 0;background:var(--faint)}.bar i.yes{background:#009e73}.bar i.no{background:#d55e00}
.choices{display:grid;grid-template-columns:repeat(auto-fill,minmax(118px,1fr));gap:.7rem;margin:.5rem 0 .2rem}
.choices figure{margin:0;min-width:0}
.thumb{width:100%;aspect-ratio:1;display:block;border-radius:8px;background:var(--wash);border:2px solid transparent}
.taken .thumb{border-color:var(--accent)}
.choices figcaption{font-size:.78rem;color:var(--faint);margin-top:.2rem}.taken figcaption{color:var(--ink);font-weight:600}
.thumb .masks path{stroke-width:1.5px}.thumb .edge{stroke-width:1.2px}.thumb .edge.under{stroke-width:2.2px}
.time{display:grid;grid-template-columns:minmax(7rem,auto) 1fr auto;gap:.25rem .8rem;align-items:center;font-size:.85rem}
.track{position:relative;height:.9rem;background:var(--wash);border-radius:3px}
.track i{position:absolute;top:0;bottom:0;border-radius:3px;min-width:2px;background:var(--accent)}
.track i.seg{background:#e69f00}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem;background:var(--wash);border-radius:8px;padding:.7rem}
.legend{font-size:.82rem;color:var(--faint);margin:.6rem .2rem 0}
@media (max-width:760px){.hero{grid-template-columns:minmax(0,1fr)}main{padding-top:1rem}h1{font-size:1.25rem}
.said{max-width:96%}.stage{max-height:none}}
"""
