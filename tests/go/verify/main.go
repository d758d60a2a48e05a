// Verifies one chain as Consul's own Connect library does: crypto/x509 of the Go standard library.
//
//	verify ROOTS.pem CHAIN.pem USAGE   (USAGE: client or server; the leaf comes first in CHAIN)
//
// Prints the leaf's URI names, one a line, and exits 0; or says why not and exits 1.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func load(file string) []*x509.Certificate {
	data, err := os.ReadFile(file)
	if err != nil {
		refuse(err)
	}
	var found []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			return found
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			refuse(err)
		}
		found = append(found, certificate)
	}
}

func pool(certificates []*x509.Certificate) *x509.CertPool {
	made := x509.NewCertPool()
	for _, certificate := range certificates {
		made.AddCert(certificate)
	}
	return made
}

func refuse(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}

func main() {
	if len(os.Args) != 4 {
		refuse("usage: verify ROOTS.pem CHAIN.pem client|server")
	}
	usages := map[string]x509.ExtKeyUsage{
		"client": x509.ExtKeyUsageClientAuth,
		"server": x509.ExtKeyUsageServerAuth,
	}
	usage, known := usages[os.Args[3]]
	chain := load(os.Args[2])
	if !known || len(chain) == 0 {
		refuse("no such usage, or no certificate in the chain")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         pool(load(os.Args[1])),
		Intermediates: pool(chain[1:]),
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		refuse(err)
	}
	for _, uri := range chain[0].URIs {
		fmt.Println(uri)
	}
}
