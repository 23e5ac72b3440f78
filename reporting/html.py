"""results/report.html: a picture, verdicts, tables and figures of each data set (`python analyze.py --report`)."""
import html

from reporting import plots
from reporting.check import published_rows
from reporting.comparison import grouped
from reporting.figures import pictures, summaries
from reporting.names import title_of
from reporting.tables import one_line
from utils.io import write_text

STYLE = """:root { color-scheme: light dark; --back: #fff; --text: #1b1d21; --soft: #5d6470; --line: #c9ced6;
  --stripe: #f4f5f7; --link: #0b57d0; --good: #1a7f37; --bad: #c62828 }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e3e5e8; --soft: #a2a8b3; --line: #474c55;
  --stripe: #1f2227; --link: #8ab4f8; --good: #58c777; --bad: #ff7b72 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; background: var(--back);
  color: var(--text); overflow-wrap: anywhere }
a { color: var(--link) } h2 { border-bottom: 2px solid var(--line); margin-top: 3rem } h3 { margin-top: 2.2rem }
nav ul { padding: 0; margin: .2rem 0 } nav li { display: inline-block; margin-right: 1.4rem }
nav h4 { margin: .8rem 0 0 } nav h3 { margin: 1rem 0 0 }
.table, .picture { overflow-x: auto; max-width: 100% } .picture img { max-width: max(100%, 44rem) }
table { border-collapse: collapse; margin: .5rem 0; font-size: .92rem; overflow-wrap: normal }
td, th { padding: .25em .8em; text-align: left; white-space: nowrap; background: var(--back) }
td:first-child, th:first-child { position: sticky; left: 0; max-width: 12rem; white-space: normal }
thead th { border-bottom: 2px solid var(--line) } tbody tr:nth-child(even) td { background: var(--stripe) }
figure { margin: 1.2rem 0 } figcaption, .legend, .soft { color: var(--soft); font-size: .9rem }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }"""


def write_report(results_dir, pages, results):
    """Write figures to results_dir/figures/, and the page.

    Args:
        pages: (data set, [(its title, name and HTML of a table)]) in order.
        results: what load.read_runs gives.
    """
    contents, body = [], []
    for dataset, tables in pages:
        links, parts = section(results_dir, dataset, tables, [run for run in results.runs if run.id_dataset == dataset])
        contents.append(f"<h4>{text(title_of(dataset))}</h4><ul>" + "".join(
            f'<li><a href="#{text(name)}">{text(heading)}</a></li>' for name, heading in links) + "</ul>")
        body += parts
    left_out = "".join(f"<li>{text(f'{run.folder}: {run.reason}')}</li>" for run in results.left_out)
    body += [f"<h2>Left out</h2><ul>{left_out}</ul>"] if left_out else []
    count = len(results.runs)
    write_text(results_dir / "report.html", "\n".join([
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">', f"<title>{TITLE}</title>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<style>{STYLE}</style></head><body>",
        f"<h1>{TITLE}</h1>", f"<p>This page shows {count} run{'s' * (count != 1)}. The note under a table names its "
        "runs and images. A table that is wider than the page scrolls to the side.</p>",
        "<nav><h3>Contents</h3>", *contents, "</nav>", *body, "</body></html>\n"]))


def section(results_dir, dataset, tables, runs):
    """[(anchor, heading)] and the HTML of one data set: overview and verdicts, tables, figures."""
    overview = anchor(f"{dataset}-overview")
    drawn = [(anchor(picture.name), picture) for picture in figures(dataset, runs)]
    links = [(overview, "overview and verdicts"), *((name, heading) for heading, name, _ in tables),
             *((name, picture.title) for name, picture in drawn)]
    parts = [f"<h2>{text(title_of(dataset))}</h2>", f'<h3 id="{text(overview)}">Overview and verdicts</h3>',
             *(figure(results_dir, picture) for picture in summaries(dataset, runs)), verdicts(runs, dataset),
             *(table for _, _, table in tables),
             *(f'<h3 id="{text(name)}">{text(picture.title)}</h3>{figure(results_dir, picture, titled=False)}'
               for name, picture in drawn)]
    return links, parts


TITLE = "Out-of-distribution detection and calibration: results"


def text(words):
    return html.escape(one_line(words), quote=True)


def anchor(name):
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def figures(dataset, runs):
    for (model, changed), chosen in grouped(runs, lambda run: (run.model, run.changed)):
        yield from (picture._replace(caption=picture.caption + f" CHANGED RECIPE: {changed}." * bool(changed))
                    for picture in pictures(dataset, model, chosen))


def figure(results_dir, picture, titled=True):
    """Draw a Picture, light and dark, and return its HTML."""
    path = results_dir / "figures" / f"{anchor(picture.name)}.png"
    plots.save(path, picture.draw)
    caption = f"{picture.title}. {picture.caption}" if titled else picture.caption
    return (f'<figure><figcaption>{text(caption)}</figcaption><div class="picture" tabindex="0"><picture><source '
            f'srcset="figures/{plots.dark(path).name}" media="(prefers-color-scheme: dark)"><img '
            f'src="figures/{path.name}" alt="{text(picture.title)}"></picture></div></figure>')


def verdicts(runs, dataset):
    """A line for each published row with runs: within its tolerances, outside, or not judged and why."""
    rows = list(published_rows(runs, dataset))
    lines = []
    for row in rows:
        if row.outside:
            lines += [f'<li><span class="bad">outside tolerance</span>: {text(line)}</li>' for line in row.outside]
        elif not row.why:
            lines.append(f'<li><span class="good">within tolerance</span>: {text(row.title)}, all {len(row.cells)} '
                         f"published columns, n = {row.cells[0].ours_n}</li>")
        elif "no run" not in row.why:
            lines.append(f'<li>not judged: {text(row.title)}: {text("; ".join(row.why.values()))}</li>')
    absent = sum("no run" in row.why for row in rows)
    if not rows:
        return '<p class="soft">Neither paper has numbers for this data set.</p>'
    more = f'<p class="soft">{absent} of the {len(rows)} published rows have no run.</p>' if absent else ""
    return f"<ul>{''.join(lines)}</ul>{more}"
