--
-- PostgreSQL database cluster dump
--

\restrict XTycKSEzdfppYq5UM4tE5WBnq7BFquiuUeYNt6vqOyRe7zZoCAeMagw4VOFu7g6

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS;
CREATE ROLE tiny_owner;
ALTER ROLE tiny_owner WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE tiny_reader;
ALTER ROLE tiny_reader WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;

--
-- User Configurations
--








\unrestrict XTycKSEzdfppYq5UM4tE5WBnq7BFquiuUeYNt6vqOyRe7zZoCAeMagw4VOFu7g6

--
-- PostgreSQL database cluster dump complete
--

