//! The ratios as a picture: a bar for each figure and peer, and the line where both are equal. Pure text; it is given
//! figures and judges none.

use super::Table;
use crate::programs::System;

/// Pixels from the left to the bars, for a ratio of one, and of one bar with its space.
const LEFT: f64 = 300.0;
/// As above.
const ONE: f64 = 260.0;
/// As above.
const BAR: f64 = 14.0;
/// The longest bar drawn, as a ratio: one far out must not flatten the others.
const LONGEST: f64 = 2.0;

/// Ours by theirs for everything where less is better.
pub(crate) fn svg(table: &Table) -> String {
    let peers: Vec<System> = table
        .systems
        .iter()
        .copied()
        .filter(|s| !matches!(s, System::Tradewind | System::Direct))
        .collect();
    let mut body = String::new();
    let mut y = 70.0;
    for figure in table.figures().filter(|f| !f.is_rate) {
        let top = y;
        for peer in &peers {
            let Some(ratio) = table.ratio(figure, *peer) else {
                continue;
            };
            let width = ratio.min(LONGEST) * ONE;
            let (colour, end, base) = (peer.colour(), LEFT + width + 5.0, y + BAR - 4.0);
            let height = BAR - 2.0;
            push(
                &mut body,
                &format!(
                    "<rect x='{LEFT}' y='{y:.1}' width='{width:.1}' height='{height}' fill='{colour}'/>"
                ),
            );
            push(
                &mut body,
                &format!("<text x='{end:.1}' y='{base:.1}' font-size='11'>{ratio:.2}</text>"),
            );
            y += BAR;
        }
        if y > top {
            let (x, middle) = (LEFT - 8.0, f64::midpoint(top, y) + 3.0);
            let name = figure.name;
            push(
                &mut body,
                &format!("<text x='{x}' y='{middle:.1}' text-anchor='end'>{name}</text>"),
            );
            y += BAR;
        }
    }
    let mut x = LEFT;
    for peer in &peers {
        let (colour, name, after) = (peer.colour(), peer.name(), x + 16.0);
        push(
            &mut body,
            &format!(
                "<rect x='{x}' y='40' width='11' height='11' fill='{colour}'/><text x='{after}' y='50'>{name}</text>"
            ),
        );
        x += 120.0;
    }
    let what = table.what;
    let (line, width, height) = (LEFT + ONE, LEFT + LONGEST * ONE + 60.0, y + 10.0);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='sans-serif' font-size='12'>\n\
         <rect width='100%' height='100%' fill='white'/>\n\
         <text x='{LEFT}' y='22' font-size='15'>Tradewind's {what} by each peer (less is better)</text>\n\
         {body}<line x1='{line}' y1='60' x2='{line}' y2='{height}' stroke='#c00' stroke-dasharray='4 3'/>\n</svg>\n"
    )
}

fn push(body: &mut String, element: &str) {
    body.push_str(element);
    body.push('\n');
}
