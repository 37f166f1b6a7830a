//! A server's tree of anchors: which paths hold an element.
//!
//! There are no nodes: the tree is an ordered map from paths to elements, in which the anchors that
//! only lead to others are implied. So an anchor exists exactly while it holds an element or leads
//! to one, walking never fails, and a subtree is a range of the map.
//!
//! An element may be *closed*: then it alone decides which elements are below it.
//!
//! The tree knows nothing of membership, nor of the kinds of its elements.
//!
//! **Invariant:** of many concurrent makers at one path one wins; a maker that fails leaves
//! nothing behind. Nobody makes an element below a closed one, nor a closed one above another element.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// The names of an anchor below its server's own.
pub type Names = Vec<String>;

/// A tree whose elements are of type `E`.
#[derive(Debug)]
pub struct Tree<E> {
    slots: Mutex<BTreeMap<Names, Slot<E>>>,
}

#[derive(Debug)]
struct Slot<E> {
    /// `None` while somebody makes it.
    element: Option<E>,
    below: Below,
}

/// Tells whether others may make elements below an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    /// Everybody.
    Open,
    /// The element alone.
    Closed,
}

/// How far below an anchor a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// To its children.
    Children,
    /// To all anchors.
    All,
}

/// How far a listing has come.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The names of the last anchor, below the one that is listed; none at the beginning.
    last: Names,
}

/// The error of a place where no element can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Occupied {
    /// The place holds an element already, or another maker has reserved it.
    #[error("occupied")]
    Held,
    /// There are elements below it.
    #[error("there are elements below it")]
    Leads,
    /// The place is below a closed element, whose names these are.
    #[error("it is below a closed element")]
    Within(Names),
}

/// A place that is kept for a maker. If it is dropped before the commit, the place is free again.
#[derive(Debug)]
pub struct Reservation<E> {
    tree: Arc<Tree<E>>,
    names: Names,
    below: Below,
    done: bool,
}

impl<E: Clone> Tree<E> {
    /// An empty tree.
    pub fn new() -> Arc<Tree<E>> {
        Arc::new(Tree {
            slots: Mutex::new(BTreeMap::new()),
        })
    }

    /// Keeps the place for a maker, if it is free.
    pub fn reserve(self: &Arc<Self>, names: &[String]) -> Result<Reservation<E>, Occupied> {
        self.reserve_place(names, Below::Open)
    }

    /// Keeps the place for the maker of a closed element, if it is free and there is nothing below it.
    pub fn reserve_closed(self: &Arc<Self>, names: &[String]) -> Result<Reservation<E>, Occupied> {
        self.reserve_place(names, Below::Closed)
    }

    fn reserve_place(
        self: &Arc<Self>,
        names: &[String],
        below: Below,
    ) -> Result<Reservation<E>, Occupied> {
        let mut slots = self.lock();
        if slots.contains_key(names) {
            return Err(Occupied::Held);
        }
        let closed = (0..names.len()).map(|depth| &names[..depth]);
        let closed = closed.into_iter().find(|above| {
            let slot = slots.get(*above);
            slot.is_some_and(|slot| slot.below == Below::Closed)
        });
        if let Some(closed) = closed {
            return Err(Occupied::Within(closed.to_vec()));
        }
        if below == Below::Closed {
            let mut behind = slots.range((Excluded(names.to_vec()), Unbounded));
            if behind
                .next()
                .is_some_and(|(found, _)| found.starts_with(names))
            {
                return Err(Occupied::Leads);
            }
        }
        let element = None;
        slots.insert(names.to_vec(), Slot { element, below });
        Ok(Reservation {
            tree: self.clone(),
            names: names.to_vec(),
            below,
            done: false,
        })
    }

    /// Puts an element below a closed one, on that one's own behalf, in place of what is there.
    pub fn put(&self, names: Names, element: E) {
        let (element, below) = (Some(element), Below::Open);
        self.lock().insert(names, Slot { element, below });
    }

    /// The element at these names.
    pub fn get(&self, names: &[String]) -> Option<E> {
        self.lock().get(names)?.element.clone()
    }

    /// Removes the element at these names, if it is there and `wanted`.
    pub fn remove_if(&self, names: &[String], wanted: impl FnOnce(&E) -> bool) -> Option<E> {
        let mut slots = self.lock();
        if !slots.get(names)?.element.as_ref().is_some_and(wanted) {
            return None;
        }
        slots.remove(names)?.element
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Goes on with a listing of the anchors below one, sorted, parents first: `visit` gets the names
    /// below that anchor, and the element there, and says whether to go on. Returns whether the listing
    /// has come to its end. `visit` must not use the tree, which is locked.
    ///
    /// The listing may have or lack an element that somebody makes or removes between two calls; it has all
    /// others once.
    pub fn visit(
        &self,
        base: &[String],
        depth: Depth,
        cursor: &mut Cursor,
        visit: impl FnMut(&[String], Option<&E>) -> bool,
    ) -> bool {
        match depth {
            Depth::Children => self.visit_children(base, cursor, visit),
            Depth::All => self.visit_all(base, cursor, visit),
        }
    }

    /// Costs a look-up per child, however much is below them.
    fn visit_children(
        &self,
        base: &[String],
        cursor: &mut Cursor,
        mut visit: impl FnMut(&[String], Option<&E>) -> bool,
    ) -> bool {
        let slots = self.lock();
        let depth = base.len();
        let mut path = [base, &cursor.last].concat();
        loop {
            let from = match path.get_mut(depth) {
                None => Excluded(&path[..]),
                Some(last) => {
                    // No name holds a control character, so this is behind the child and all below
                    // it, and before the next child.
                    last.push('\0');
                    Included(&path[..])
                }
            };
            let next = slots.range::<[String], _>((from, Unbounded)).next();
            let Some(name) = next.and_then(|(found, _)| child_of(base, found)) else {
                return true;
            };
            path.truncate(depth);
            path.push(name.to_owned());
            let held = slots.get(&path).and_then(|slot| slot.element.as_ref());
            if (held.is_some() || leads_to_element(&slots, &path)) && !visit(&path[depth..], held) {
                cursor.last = path.split_off(depth);
                return false;
            }
        }
    }

    fn visit_all(
        &self,
        base: &[String],
        cursor: &mut Cursor,
        mut visit: impl FnMut(&[String], Option<&E>) -> bool,
    ) -> bool {
        let slots = self.lock();
        let before = std::mem::take(&mut cursor.last);
        let from = [base, &before].concat();
        let mut last: &[String] = &before;
        for (found, slot) in slots.range::<[String], _>((Excluded(&from[..]), Unbounded)) {
            let Some(below) = found.strip_prefix(base) else {
                break;
            };
            let Some(element) = &slot.element else {
                continue;
            };
            // The anchors that lead to this one, and did not lead to the one before.
            for depth in common(last, below) + 1..below.len() {
                visit(&below[..depth], None);
            }
            if !visit(below, Some(element)) {
                cursor.last = below.to_vec();
                return false;
            }
            last = below;
        }
        true
    }

    /// All elements.
    pub fn elements(&self) -> Vec<E> {
        let slots = self.lock();
        slots
            .values()
            .filter_map(|slot| slot.element.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Names, Slot<E>>> {
        self.slots.lock()
    }
}

fn child_of<'a>(base: &[String], names: &'a [String]) -> Option<&'a str> {
    names.strip_prefix(base)?.first().map(String::as_str)
}

fn leads_to_element<E>(slots: &BTreeMap<Names, Slot<E>>, path: &[String]) -> bool {
    slots
        .range((Excluded(path.to_vec()), Unbounded))
        .take_while(|(names, _)| names.starts_with(path))
        .any(|(_, slot)| slot.element.is_some())
}

fn common(a: &[String], b: &[String]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<E> Reservation<E> {
    /// Puts the element in its place.
    pub fn commit(mut self, element: E) {
        self.done = true;
        let mut slots = self.tree.slots.lock();
        let (element, below) = (Some(element), self.below);
        slots.insert(std::mem::take(&mut self.names), Slot { element, below });
    }
}

impl<E> Drop for Reservation<E> {
    fn drop(&mut self) {
        if !self.done {
            let mut slots = self.tree.slots.lock();
            slots.remove(&self.names);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(path: &str) -> Names {
        path.split('/')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn tree(paths: &[&str]) -> Arc<Tree<u32>> {
        let tree = Tree::new();
        for (n, path) in paths.iter().enumerate() {
            tree.reserve(&names(path)).unwrap().commit(n as u32);
        }
        tree
    }

    /// A listing, so many anchors at a time.
    fn list(
        tree: &Tree<u32>,
        base: &[String],
        depth: Depth,
        at_a_time: usize,
    ) -> Vec<(Names, Option<u32>)> {
        let (mut all, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let mut left = at_a_time;
            let ended = tree.visit(base, depth, &mut cursor, |names, held| {
                all.push((names.to_vec(), held.copied()));
                left = left.saturating_sub(1);
                left > 0
            });
            if ended {
                return all;
            }
        }
    }

    fn subtree(tree: &Tree<u32>, base: &[String]) -> Vec<(Names, Option<u32>)> {
        list(tree, base, Depth::All, usize::MAX)
    }

    fn children(tree: &Tree<u32>, base: &[String]) -> Vec<(String, Option<u32>)> {
        let children = list(tree, base, Depth::Children, usize::MAX).into_iter();
        children
            .map(|(names, held)| (names.concat(), held))
            .collect()
    }

    fn show(listed: Vec<(Names, Option<u32>)>) -> Vec<String> {
        let line = |(names, held): (Names, Option<u32>)| match held {
            Some(n) => format!("{}={n}", names.join("/")),
            None => names.join("/"),
        };
        listed.into_iter().map(line).collect()
    }

    #[test]
    fn lists_with_the_anchors_on_the_way() {
        let tree = tree(&["a/b/c", "a/b", "x", "a/d/e/f", "a b/c"]);
        assert_eq!(
            show(subtree(&tree, &[])),
            [
                "a",
                "a/b=1",
                "a/b/c=0",
                "a/d",
                "a/d/e",
                "a/d/e/f=3",
                "a b",
                "a b/c=4",
                "x=2"
            ]
        );
        assert_eq!(show(subtree(&tree, &names("a/b"))), ["c=0"]);
        assert!(subtree(&tree, &names("nowhere")).is_empty());
        let children_of_root = children(&tree, &[]);
        assert_eq!(
            children_of_root,
            [
                ("a".into(), None),
                ("a b".into(), None),
                ("x".into(), Some(2))
            ]
        );
        assert_eq!(
            children(&tree, &names("a")),
            [("b".into(), Some(1)), ("d".into(), None)]
        );
    }

    #[test]
    fn one_maker_wins_and_a_failed_one_leaves_nothing() {
        let tree = Tree::new();
        let reservation = tree.reserve(&names("a/b")).unwrap();
        assert_eq!(tree.reserve(&names("a/b")).unwrap_err(), Occupied::Held);
        assert_eq!(tree.get(&names("a/b")), None::<u32>);
        assert!(
            children(&tree, &[]).is_empty(),
            "nothing is there before it is made"
        );
        drop(reservation);
        assert!(tree.is_empty());
        tree.reserve(&names("a/b")).unwrap().commit(1);
        assert_eq!(tree.get(&names("a/b")), Some(1));
        assert_eq!(tree.reserve(&names("a/b")).unwrap_err(), Occupied::Held);
    }

    #[test]
    fn below_a_closed_element_nobody_else_makes_any() {
        let tree = tree(&["a/b"]);
        assert_eq!(
            tree.reserve_closed(&names("a")).unwrap_err(),
            Occupied::Leads
        );
        let closed = tree.reserve_closed(&names("s")).unwrap();
        let within = |path: &str| tree.reserve(&names(path)).unwrap_err();
        assert_eq!(within("s/1"), Occupied::Within(names("s")));
        closed.commit(7);
        assert_eq!(within("s/x/y"), Occupied::Within(names("s")));
        tree.put(names("s/1"), 8);
        assert_eq!(tree.get(&names("s/1")), Some(8));
        // A name that only begins alike is not below it.
        tree.reserve(&names("s1")).unwrap().commit(9);
        tree.remove_if(&names("s/1"), |_| true);
        tree.remove_if(&names("s"), |_| true);
        tree.reserve(&names("s/1")).unwrap().commit(10);
    }

    #[test]
    fn an_anchor_vanishes_with_what_it_led_to() {
        let tree = tree(&["a/b/c"]);
        assert_eq!(tree.remove_if(&names("a/b"), |_| true), None);
        assert_eq!(tree.remove_if(&names("a/b/c"), |_| false), None);
        assert_eq!(tree.remove_if(&names("a/b/c"), |_| true), Some(0));
        assert!(children(&tree, &[]).is_empty());
    }

    proptest! {
        /// Against the obvious computation: every prefix of every element's path, once, in order.
        #[test]
        fn listings_are_what_the_paths_say(paths in proptest::collection::btree_set(proptest::collection::vec("[ab ]{1,2}", 1..5), 0..20)) {
            let tree = Tree::new();
            let mut expected: BTreeMap<Names, Option<u32>> = BTreeMap::new();
            for (n, path) in paths.iter().enumerate() {
                tree.reserve(path).unwrap().commit(n as u32);
                for depth in 1..path.len() {
                    expected.entry(path[..depth].to_vec()).or_insert(None);
                }
                expected.insert(path.clone(), Some(n as u32));
            }
            let all: Vec<_> = expected.clone().into_iter().collect();
            prop_assert_eq!(subtree(&tree, &[]), all);
            for base in expected.keys().chain([&Vec::new()]) {
                let expected: Vec<_> = expected
                    .iter()
                    .filter(|(path, _)| path.len() == base.len() + 1 && path.starts_with(base))
                    .map(|(path, held)| (path.last().unwrap().clone(), *held))
                    .collect();
                prop_assert_eq!(children(&tree, base), expected);
                // However few at a time.
                for depth in [Depth::Children, Depth::All] {
                    let whole = list(&tree, base, depth, usize::MAX);
                    for at_a_time in 1..4 {
                        prop_assert_eq!(list(&tree, base, depth, at_a_time), whole.clone());
                    }
                }
            }
        }
    }
}
