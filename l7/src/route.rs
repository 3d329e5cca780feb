// SPDX-License-Identifier: GPL-3.0-only
//! Which pool serves a request: by the longest prefix of its path in normal form ([`path`]).

pub mod path;
pub mod pool;

use pool::Pool;
use std::sync::Arc;

/// The routes of a listener, longest path prefix first.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Route>);

/// A path prefix and the pool that serves it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The prefix, beginning with `/`. It matches whole segments: `/a` matches `/a`, `/a/b` and `/a?c`, not `/ab`.
    pub path: Arc<str>,
    /// Who serves it.
    pub pool: Arc<Pool>,
}

impl Routes {
    /// Orders the routes so that the longest prefix is found first.
    pub fn new(mut routes: Vec<Route>) -> Routes {
        routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Routes(routes)
    }

    /// The route with the longest prefix of `path` (a request's path and query).
    pub fn find(&self, path: &[u8]) -> Option<&Route> {
        self.0.get(self.position(path)?)
    }

    /// Where in [`iter`](Self::iter)'s order that route is.
    pub(crate) fn position(&self, path: &[u8]) -> Option<usize> {
        self.0.iter().position(|route| covers(route.path.as_bytes(), path))
    }

    /// All routes, longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

fn covers(prefix: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(prefix) {
        Some([] | [b'/' | b'?', ..]) => true,
        Some(_) => prefix.ends_with(b"/"),
        // `OPTIONS *` concerns the server as a whole: the root route answers it.
        None => path == b"*" && prefix == b"/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::pool::Algorithm;

    fn routes(paths: &[&str]) -> Routes {
        let pool = |path: &str| Pool::new(path.into(), Algorithm::RoundRobin, Vec::new());
        Routes::new(paths.iter().map(|&p| Route { path: p.into(), pool: Arc::new(pool(p)) }).collect())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = routes(&["/", "/a", "/a/b", "/c/"]);
        for (path, expected) in [
            ("/", "/"),
            ("/ab", "/"),
            ("/a", "/a"),
            ("/a?q", "/a"),
            ("/a/x", "/a"),
            ("/a/b/c", "/a/b"),
            ("/a/bc", "/a"),
            ("/c", "/"),
            ("/c/d", "/c/"),
            ("*", "/"),
        ] {
            assert_eq!(&*routes.find(path.as_bytes()).unwrap().path, expected, "{path}");
        }
        assert!(super::tests::routes(&["/a"]).find(b"/").is_none());
    }
}
