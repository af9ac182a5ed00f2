module github.com/atolldb/atoll/infra/local/modules/pause

go 1.26.0
