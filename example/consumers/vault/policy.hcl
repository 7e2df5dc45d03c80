# What an instance with this role may read.
path "secret/data/web/*" {
  capabilities = ["read"]
}
