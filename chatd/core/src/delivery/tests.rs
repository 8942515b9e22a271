//! Sessions and their credits.
