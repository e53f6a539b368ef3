module example.test/model-server

go 1.24
