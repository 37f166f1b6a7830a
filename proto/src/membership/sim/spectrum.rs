//! How good an expander the graph of links is: its second eigenvalue.
//!
//! Of the matrix of the random walk, D^-1/2 A D^-1/2, the largest eigenvalue is 1; the smaller all
//! others are, the better the graph expands. Among regular graphs of degree d none does much better
//! than 2 sqrt(d-1) / d (Alon and Boppana; graphs below it are called Ramanujan graphs), and random
//! ones come close to it (Friedman 2008).

use super::Simulation;
use super::node::number;
use crate::membership::random::Random;

/// How many steps of Lanczos' method: chosen, the largest eigenvalue of graphs of 10,000 servers
/// has converged to three digits after 60.
const STEPS: usize = 120;

/// A graph by the neighbours of each node.
pub type Graph = Vec<Vec<usize>>;

impl Simulation {
    /// The graph of the links that both ends hold, among the running servers.
    pub fn graph(&self) -> Graph {
        let mut numbers = vec![usize::MAX; self.nodes.len()];
        for (number, (i, _)) in self.up().enumerate() {
            numbers[i] = number;
        }
        self.up()
            .map(|(_, machine)| {
                let me = machine.me().fingerprint;
                machine
                    .links
                    .iter()
                    .map(|who| number(&who))
                    .filter(|j| {
                        self.nodes[*j]
                            .machine()
                            .is_some_and(|peer| peer.links.contains(&me))
                    })
                    .map(|j| numbers[j])
                    .collect()
            })
            .collect()
    }

    /// The second eigenvalue divided by the Ramanujan bound for the mean degree.
    pub fn expansion(&self) -> f64 {
        let graph = self.graph();
        let degree = graph.iter().map(Vec::len).sum::<usize>() as f64 / graph.len() as f64;
        second_eigenvalue(&graph) / (2.0 * (degree - 1.0).sqrt() / degree)
    }
}

/// The largest eigenvalue but the first of the random walk's matrix, by its absolute value.
pub fn second_eigenvalue(graph: &Graph) -> f64 {
    let n = graph.len();
    let roots: Vec<f64> = graph
        .iter()
        .map(|peers| (peers.len() as f64).sqrt())
        .collect();
    let first = unit(&roots);
    let mut random = Random::new(n as u64);
    let start: Vec<f64> = (0..n).map(|_| random.fraction() - 0.5).collect();
    let mut now = unit(&without(start, &first));
    let mut before = vec![0.0; n];
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..STEPS.min(n.saturating_sub(1)) {
        let mut next: Vec<f64> = graph
            .iter()
            .zip(&roots)
            .map(|(peers, root)| peers.iter().map(|j| now[*j] / (root * roots[*j])).sum())
            .collect();
        let alpha = dot(&next, &now);
        let beta = beside.last().copied().unwrap_or(0.0);
        for (value, (now, before)) in next.iter_mut().zip(now.iter().zip(&before)) {
            *value -= alpha * now + beta * before;
        }
        // Rounding brings the first eigenvector back.
        next = without(next, &first);
        diagonal.push(alpha);
        let length = dot(&next, &next).sqrt();
        if length < 1e-9 {
            break;
        }
        beside.push(length);
        before = now;
        now = next.iter().map(|value| value / length).collect();
    }
    beside.truncate(diagonal.len().saturating_sub(1));
    let negated: Vec<f64> = diagonal.iter().map(|value| -value).collect();
    largest(&diagonal, &beside).max(largest(&negated, &beside))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(vector: &[f64]) -> Vec<f64> {
    let length = dot(vector, vector).sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|value| value / length).collect()
}

/// The vector without its part along the unit vector.
fn without(mut vector: Vec<f64>, along: &[f64]) -> Vec<f64> {
    let part = dot(&vector, along);
    for (value, along) in vector.iter_mut().zip(along) {
        *value -= part * along;
    }
    vector
}

/// The largest eigenvalue of a symmetric tridiagonal matrix with eigenvalues from -1 to 1, by
/// bisection with Sturm's sequence (Golub and Van Loan, section 8.4).
fn largest(diagonal: &[f64], beside: &[f64]) -> f64 {
    let (mut low, mut high) = (-1.0, 1.0 + 1e-6);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        let mut pivot = 1.0;
        let mut above = false;
        for (i, value) in diagonal.iter().enumerate() {
            let off = if i == 0 { 0.0 } else { beside[i - 1] };
            pivot = value - middle - off * off / pivot;
            if pivot == 0.0 {
                pivot = 1e-300;
            }
            above |= pivot > 0.0;
        }
        if above { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(graph: Graph, expected: f64) {
        let found = second_eigenvalue(&graph);
        assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
    }

    #[test]
    fn known_graphs_have_their_known_eigenvalues() {
        let complete = |n: usize| {
            (0..n)
                .map(|i| (0..n).filter(|j| *j != i).collect())
                .collect()
        };
        check(complete(9), 1.0 / 8.0);
        let ring = |n: usize| (0..n).map(|i| vec![(i + 1) % n, (i + n - 1) % n]).collect();
        check(ring(25), (std::f64::consts::PI / 25.0).cos());
        // The Petersen graph: 3, 1 five times, -2 four times.
        let petersen = (0..10)
            .map(|i| {
                if i < 5 {
                    vec![(i + 1) % 5, (i + 4) % 5, i + 5]
                } else {
                    vec![(i - 5 + 2) % 5 + 5, (i - 5 + 3) % 5 + 5, i - 5]
                }
            })
            .collect();
        check(petersen, 2.0 / 3.0);
        // The graph has two parts that nothing links.
        let triangle = |at: usize| (0..3).map(move |i| vec![at + (i + 1) % 3, at + (i + 2) % 3]);
        check(triangle(0).chain(triangle(3)).collect(), 1.0);
    }
}
