// Package secret keeps secrets in their files and out of all that is printed.
//
// Operators make two mistakes with secrets: they paste one where the path of its
// file is wanted, and they leave its file open to other users. This package says
// whether a value looks like a path ([IsPath]), takes out of a text what may be a
// secret ([Text], [Values]) or is not printable ([Printable]), reads the files that
// the configuration names ([ReadFile]), and says what other users can do with a file
// ([AccessOf]) and whether root may act on it ([CheckOwner], [CheckSocket]).
//
// It judges a value by its shape. A password that has the shape of a name, such as
// a single lower-case word, cannot be told from a name.
package secret
