"""The look of a page: one style sheet, without a font, picture or script from elsewhere."""

from __future__ import annotations

LEVELS = 24  # heights of a mark
LINES = 8  # colours of a chart

# Below the limit the colours are of one hue, near it amber, beyond it red; the height says the same
# to those who see no colours.
STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#5c6570;--line:#dde1e6;
--panel:#f5f7f9;--good:#147a47;--good-paper:#e6f5ec;--bad:#b3261e;--bad-paper:#fdecea;
--near:#b26a00;--near-paper:#fdf3e1;--low:#9cc3dc;--mid:#3f87b5;--high:#17527c;--over:#d0342c;
--amber:#e09415;--equal:#c9d0d6;--c0:#2368a8;--c1:#c4561c;--c2:#2d7f4f;--c3:#8a4ba8;--c4:#a07800;
--c5:#b02a63;--c6:#3b7f86;--c7:#6b6f76}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e4e7ea;--soft:#9aa4ae;
--line:#2e343b;--panel:#1c2126;--good:#6fd39b;--good-paper:#14291e;--bad:#ff8f85;
--bad-paper:#331b19;--near:#f2b950;--near-paper:#2f2512;--low:#2f5a78;--mid:#4f97c5;--high:#9ccdf0;
--over:#ff6257;--amber:#f0a83a;--equal:#3a424a;--c0:#6aaee8;--c1:#f0935c;--c2:#6cc692;--c3:#c695e0;
--c4:#d8b44a;--c5:#ee80ac;--c6:#7cc3ca;--c7:#a5abb3}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:76rem;padding:1.5rem 1.25rem 4.5rem;background:var(--paper);
color:var(--ink);font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
header p,h1,h2,h3,figcaption,summary{text-wrap:pretty}
header{border:1px solid var(--line);border-left:.4rem solid var(--soft);border-radius:.4rem;
padding:1rem 1.25rem;background:var(--panel)}
header.good{border-left-color:var(--good);background:var(--good-paper)}
header.bad{border-left-color:var(--bad);background:var(--bad-paper)}
header.measured{border-left-color:var(--near);background:var(--near-paper)}
header p{margin:.3rem 0 0}
h1{font-size:1.35rem;line-height:1.3;margin:0}
header .what{margin:0 0 .25rem;color:var(--soft);font-size:.9rem}
h2{font-size:1.12rem;margin:2.2rem 0 .5rem;padding-bottom:.25rem;
border-bottom:1px solid var(--line)}
h3{font-size:.95rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0}
.good{color:var(--good)}.bad{color:var(--bad)}.measured{color:var(--near)}
header.good,header.bad,header.measured{color:inherit}
header.good h1{color:var(--good)}header.bad h1{color:var(--bad)}
header.measured h1{color:var(--near)}
td.good,td.bad,td.measured{font-weight:600;white-space:nowrap}
.table{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;
overflow-wrap:normal}
th,td{padding:.28rem .9rem .28rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);white-space:nowrap}
td{min-width:3.5rem;max-width:34rem}
.right{text-align:right;white-space:nowrap}
figure{margin:1rem 0 1.4rem}.group,tr{break-inside:avoid}
figcaption{display:flex;flex-wrap:wrap;gap:0 .8rem;align-items:baseline}
figcaption b{font-weight:600}
figcaption small,.scale,.soft{color:var(--soft);font-size:.82rem}
.strip{display:flex;flex-wrap:wrap;gap:.45rem .6rem;margin:.4rem 0 .2rem}
.group{max-width:100%}
.group>span{display:block;font-size:.7rem;color:var(--soft);line-height:1.5;white-space:nowrap}
.marks{display:flex;flex-wrap:wrap;row-gap:4px}
.marks i{width:8px;height:44px;padding-right:1px;background-clip:content-box;cursor:pointer;
background-repeat:no-repeat;background-position:bottom;
background-image:linear-gradient(var(--k),var(--k));
background-size:100% var(--h);background-color:var(--panel)}
.limit .marks i{border-top:0;box-shadow:none;background-image:
linear-gradient(var(--k),var(--k)),linear-gradient(var(--soft),var(--soft));
background-size:100% var(--h),100% 1px;background-position:bottom,0 LIMIT}
.fine .marks i{width:5px;height:26px}
.marks i:hover{outline:2px solid var(--ink);outline-offset:0;z-index:1}
.marks i.first{outline:2px solid var(--bad);outline-offset:1px;z-index:1}
.marks i:hover::after{content:attr(title);position:fixed;left:0;right:0;bottom:0;z-index:9;
padding:.6rem 1.25rem;background:var(--ink);color:var(--paper);font-size:.9rem;font-style:normal;
text-align:center;pointer-events:none}
details{margin:.2rem 0}
summary{cursor:pointer;color:var(--soft);font-size:.82rem}
svg{width:100%;height:auto;max-width:54rem;display:block}
svg text{font-size:12px;fill:var(--soft);font-family:inherit}
svg .grid{stroke:var(--line);stroke-width:1}
svg circle{fill:var(--k)}
svg polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}
.key{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.85rem;margin:.2rem 0;padding:0;
list-style:none}
.key li::before{content:"";display:inline-block;width:1.1em;height:.22em;margin-right:.4em;
vertical-align:middle;background:var(--k)}
code,pre{font:.88rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{margin:.5rem 0;padding:.6rem .8rem;background:var(--panel);border:1px solid var(--line);
border-radius:.3rem;white-space:pre-wrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.2rem;font-size:.9rem;
margin:.5rem 0}
dd{margin:0;color:var(--soft);font-variant-numeric:tabular-nums}
@media screen and (max-width:36rem){body{padding:1rem .8rem 4.5rem}h1{font-size:1.15rem}
header{padding:.8rem 1rem}
table,tbody,tr,td{display:block}thead{display:none}
tr{padding:.4rem 0;border-bottom:1px solid var(--line)}
td,td.right{display:grid;grid-template-columns:7.5rem 1fr;gap:.6rem;border:0;padding:.05rem 0;
text-align:left;max-width:none;white-space:normal;overflow-wrap:anywhere}
td:empty{display:none}td::before{content:attr(data-of);color:var(--soft);font-weight:400}}
@media print{:root{color-scheme:light}body{max-width:none;padding:0;font-size:9.5pt}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;height:auto}h2,h3,figcaption{break-after:avoid}
.table{overflow:visible}}
@page{margin:14mm}
"""


def style(limit: float, near: float) -> str:
    """The style sheet; `limit` is the height, from 0 to 1, at which a strip draws its limit, and
    `near` the one at which amber begins.
    """
    rules = [STYLE.replace("LIMIT", f"{100 * (1 - limit):.1f}%").strip()]
    for i in range(LEVELS + 1):
        rules.append(f".h{i}{{--h:{max(4, round(100 * i / LEVELS))}%;--k:var(--{_colour(i)})}}")
        if i > LEVELS * near:
            rules.append(f".limit .h{i}{{--k:var(--amber)}}")
    rules.append(".limit .over,.free .over{--k:var(--over)}")
    rules += [f".k{i}{{--k:var(--c{i});stroke:var(--c{i})}}" for i in range(LINES)]
    return "\n".join(rules)


def _colour(height: int) -> str:
    if height == 0:
        return "equal"
    return ("low", "mid", "high")[min(2, 3 * height // LEVELS)]
