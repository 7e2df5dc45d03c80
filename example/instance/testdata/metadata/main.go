// Command metadata is a metadata service of a test: at an address it answers each
// request with a token.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	s := &http.Server{Addr: os.Args[1], ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, os.Args[2])
	})}
	log.Fatal(s.ListenAndServe())
}
