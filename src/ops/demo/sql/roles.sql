CREATE ROLE qliksenserepository LOGIN PASSWORD 'sample';
CREATE ROLE reporting NOLOGIN;
GRANT reporting TO qliksenserepository;
