module nibble

go 1.19
